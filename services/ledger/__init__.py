"""ledger: what each session spent, counted once, in integers, whatever crashes.

Reads
    ``facts/ingest/ledger``: ``opened`` (a session exists), ``cost`` (an agent's running totals), ``running``
    (what a turn has cost so far), ``limit`` and ``limit_over`` (usage limits), ``conversation`` and
    ``unreported`` (whose transcripts to read, and what a killed agent did not tell); the commands
    ``ledger/sessions/<s>/budget``, ``ledger/budgets/<period>``, ``ledger/query`` and ``ledger/import``;
    ``sessions/index`` (whose snapshots are still wanted); ``sessions/+/events/tool`` (agents that run in
    circles); the agents' transcripts.
Writes
    ``ledger/sessions/<s>`` and ``ledger/total`` (snapshots), ``ledger/events`` (actions ``level``,
    ``runaway``, ``limit_reset``, ``drift``, ``import_progress``), ``facts/ledger/ingest`` (``hold``: a budget
    holds a session, or releases it).
Keeps
    The database at ``ledger.database`` (synchronous=FULL): reports as the agents made them, postings (rows
    that never change), budgets, sessions, outbox, inbox and command ids; and ``spent``, sums of the postings
    that can be made again from them, and are when they do not agree.
If it dies
    Nobody waits for it. Facts stay with ingest until the next ledger acknowledges them; it reads the sums and
    says every snapshot again. Until then the snapshots stand as they were said last.

Read `core` first (what is counted, and from where), then `chain` (from running totals to postings),
`accounts` (what follows from it), `budgets` (who is held), `running`, `forecast`, `runaway`, `limits`,
`money`, `periods`, `levels`, `say`, `database`, `store`, `standing`, `shell`; and for the second witness
`witness`, `transcripts`, `files`, `prices`, `watch`, `importing`.
"""
