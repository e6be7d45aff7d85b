"""approvals: the gate. An agent asks, a rule or a person decides, once, and the agent gets exactly that.

Reads
    ``facts/ingest/approvals``: ``question``, ``withdrawn``, ``forbidden``, ``applied``, ``unapproved``,
    ``over``; ``internal/approvals/judge``;
    ``facts/broker/approvals``: ``users``; the commands ``approvals/<id>/decision`` and
    ``approvals/<id>/show``, ``audit/verify``, ``audit/export``, ``keys/rotate``;
    ``devices/<device>/approve`` and ``deny``; ``policy/<verb>``.
Writes
    ``approvals/pending``, ``approvals/<id>/request`` and ``approvals/<id>/tokens/<user>`` (cleared once
    decided), ``approvals/<id>/outcome``, ``approvals/events``; ``devices/<device>/pending`` and ``reply``;
    the fact ``answer`` to ingest, once for each approval; ``internal/ingest/verdict``.
Keeps
    ``approvals.sqlite`` (synchronous=FULL): approvals with their inputs, the audit chain, outbox, inbox and
    command ids, users; ``secrets/approvals.key``, from which tokens are made and the audit's head is sealed;
    ``secrets/audit.head``, where the audit stood.
If it dies
    Agents wait; nobody can decide. The next one reads the pending approvals, denies those whose time has
    passed, says the others again with the same tokens, and sends answers that ingest has not acknowledged.
    If the key is lost, a new one is made and new tokens are said.

Read `core` first (theory of operation; `table` has the states, `model` the values), then

    question, reading            a question as it comes; its input as a judge and as a person sees it
    danger                       how dangerous it is, and why
    calls, rules, globs          a call as the rules see it; what rules say; their patterns
    policy, loading, remember    rules out of the configuration, and out of decisions
    policing, passed, replay     calls judged before they run; what passed; what other rules had said
    decision, tokens, users      what a yes lets through; what proves who decides; who may
    devices, press               buttons: what they may decide, and when they do
    foresight                    calls that were examined before anybody asked about them
    attention                    how long the questions of a session may take to read
    say                          an approval as the bus sees it
    audit, rows, chain           the audit: its theory, its rows, its table
    mac, keys, custody           signing; the keys; who keeps both
    store, world, shell          the gate in the world
"""
