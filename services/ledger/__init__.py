"""ledger: what each session spent, counted once, in integers, whatever crashes.

Reads
    ``facts/ingest/ledger``: ``opened`` (a session exists), ``cost`` (an agent's running totals), ``running``
    (what a turn has cost so far), ``limit`` and ``limit_over`` (usage limits), ``conversation`` and
    ``unreported`` (whose transcripts to read, and what a killed agent did not tell); the commands
    ``ledger/sessions/<s>/budget``, ``ledger/budgets/<period>``, ``ledger/query``, ``ledger/import`` and
    ``ledger/check``;
    ``sessions/index`` (whose snapshots are still wanted); ``sessions/+/events/tool`` (agents that run in
    circles); the agents' transcripts.
Writes
    ``ledger/sessions/<s>``, ``ledger/total`` and ``ledger/allowances`` (snapshots), ``ledger/events``,
    ``facts/ledger/ingest`` (``hold``: a budget holds a session, or releases it).
Keeps
    The database at ``ledger.database`` (synchronous=FULL): reports as the agents made them, postings (rows
    that never change), budgets, sessions, outbox, inbox and command ids; and ``spent``, sums of the postings
    that can be made again from them, and are when they do not agree.
If it dies
    Nobody waits for it. Facts stay with ingest until the next ledger acknowledges them; it reads the sums and
    says every snapshot again. Until then the snapshots stand as they were said last.

Read `core` first (what is counted, and from where), then `model` and

    reading, chain                  from a fact to a report; from running totals to postings
    accounts, levels, periods       what follows from them: sums, levels, days; `money`, `zone`
    budgets, running, limits        who is held; what runs; the subscription's windows
    forecast, runaway               when a budget will be used up; agents that run in circles
    say, metrics                    snapshots, events and answers; figures
    database, store, columns        SQLite or PostgreSQL; the tables; `queries` about the past, `loaded` at
                                    the start, `standing` between postings, `upkeep` of a big ledger
    witness, witnessing, evidence   the second witness: transcripts, read by `files` and `watch`, understood
                                    by `transcripts`, priced by `prices`, kept by `evidence_store`;
                                    `estimates` of what a killed agent did not report
    importing, importer             costs from before Pointsman
    shell                           all that in the world
"""
