"""Talks to agents; owns the sessions.

Agents reach it over a WebSocket (`server`): through a bridge, which carries the journal of an agent that runs
over stdio, or by themselves (`--sdk-url`). Screens of Claude Code are followed through their hooks, over HTTP
(`hooks_server`). What they say becomes the session's state, events, questions and costs; what users and the
gate say goes back to them.

In: `sessions/<s>/{prompt,interrupt,set,history,remove,hibernate,wake}`,
`internal/ingest/{end,evict,verdict}`; `ledger/allowances`; facts `created`, `started`, `exited`, `screen`
(tmux controller), `answer` (gate), `hold` (ledger).

Out: `sessions/index`, `sessions/<s>/state`, `sessions/<s>/events/<type>`; facts `question`, `withdrawn`,
`forbidden`, `applied`, `unapproved`, `over` (gate), `opened`, `cost`, `running`, `conversation`,
`unreported`, `limit`, `limit_over` (ledger); commands `internal/tmux/{spawn,stop,type}`,
`internal/approvals/judge`, `internal/watchdog/admit` and, for a session that failed, `sessions/<s>/end`.

Kept (SQLite, survives any crash of processes): a row per session with the offset up to which its agent's
journal is dealt with, its last 10,000 events, prompts that no result covers yet, lines that the agent may not
have read. One transaction per WebSocket message; nothing at all for deltas.

When it dies: agents and bridges wait and connect again. A bridge goes on from the kept offset, so that each
frame has its effect once: each question is asked once, each cost told once, and the events' numbers have no
gap; deltas since the last commit are said again. An agent by `--sdk-url` repeats its frames (dropped here by
uuid) and is asked what is still open; a hook callback that got lost on the way ends by its timeout.

Reading order:

    states, model, step         the status of a session, what is known of it, one step of it
    wire, say, cut              what an agent says, what it is told, and how much of it is published
    turns, deltas               frames: turns, texts, tools, results; pieces of text
    questions, callbacks        what the agent asks, and what it is about to do
    delivery                    prompts and lines on their way to the agent
    life, rest                  its processes; sleep and waking
    evidence, running           what the ledger needs: transcripts, and what a running turn has cost
    holds, allowances, limits   what stops a session: its budget, a silent ledger, a usage limit
    registry, commands, links   which sessions there are, what is asked of them, their connections
    core                        all of it together
    store, server, shell        all that in the world; `metrics`, `bridge_metrics`, `exceptions`
                                for Prometheus

Sessions followed by their hooks: `hook_wire`, `hook_model`, `hook_turns`, `hook_questions`, `hook_rules`,
`screen`, `presence`, `hooks`; then `hooks_server`, `hooks_shell`.
"""
