"""approvals: the gate. An agent asks, a rule or a person decides, once, and the agent gets exactly that.

Reads
    ``facts/ingest/approvals``: ``question``, ``withdrawn``, ``applied``, ``over``;
    ``facts/broker/approvals``: ``users``; the commands ``approvals/<id>/decision`` and
    ``approvals/<id>/show``, ``audit/verify``, ``audit/export``, ``keys/rotate``;
    ``devices/<device>/approve`` and ``deny``.
Writes
    ``approvals/pending``, ``approvals/<id>/request`` and ``approvals/<id>/tokens/<user>`` (cleared once
    decided), ``approvals/<id>/outcome``; ``devices/<device>/pending`` and ``reply``; the fact
    ``answer`` to ingest, once for each approval.
Keeps
    ``approvals.sqlite`` (synchronous=FULL): approvals with their inputs, the audit chain, outbox, inbox and
    command ids, users; ``secrets/approvals.key``, from which tokens are made and the audit's head is sealed;
    ``secrets/audit.head``, where the audit stood.
If it dies
    Agents wait; nobody can decide. The next one reads the pending approvals, denies those whose time has
    passed, says the others again with the same tokens, and sends answers that ingest has not acknowledged.
    If the key is lost, a new one is made and new tokens are said.

Read `core` first (theory of operation and the table of states), then `decision` (what a yes lets through),
`reading` (the input as a person sees it), `danger`, `rules`, `tokens`, `audit`, `store` and `shell`;
`users`, `devices` and `press` (who else decides), `chain`, `keys` and `custody` (the audit and the keys),
`attention` (how long the questions of a session may take to read), `passed` (what else a replay looks at).
"""
