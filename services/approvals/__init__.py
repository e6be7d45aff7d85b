"""approvals: the gate. An agent asks, a rule or a person decides, once, and the agent gets exactly that.

Reads
    ``facts/ingest/approvals``: ``question``, ``withdrawn``, ``applied``; the commands
    ``approvals/<id>/decision`` and ``approvals/<id>/show``.
Writes
    ``approvals/pending``, ``approvals/<id>/request`` and ``approvals/<id>/tokens/<user>`` (cleared once
    decided), ``approvals/<id>/outcome``; the fact ``answer`` to ingest, once for each approval.
Keeps
    ``approvals.sqlite`` (synchronous=FULL): approvals with their inputs, the audit chain, outbox, inbox and
    command ids; ``secrets/approvals.key``, from which tokens are made.
If it dies
    Agents wait; nobody can decide. The next one reads the pending approvals, denies those whose time has
    passed, says the others again with the same tokens, and sends answers that ingest has not acknowledged.
    If the key is lost, a new one is made and new tokens are said.

Read `core` first (theory of operation and the table of states), then `decision` (what a yes lets through),
`reading` (the input as a person sees it), `danger`, `rules`, `tokens`, `audit`, `store` and `shell`.
"""
