"""Talks to agents; owns the sessions.

Agents reach it over a WebSocket (`server`): through a bridge, which carries the journal of an agent that runs
over stdio, or by themselves (`--sdk-url`). Screens of Claude Code are followed through their hooks, over HTTP
(`hooks_server`). What they say becomes the session's state, events, questions and costs; what users and the
gate say goes back to them.

In: `sessions/<s>/{prompt,interrupt,set,history,remove,hibernate,wake}`, `internal/ingest/{end,evict}`; facts
`created`, `started`, `exited` (tmux controller), `answer` (gate).

Out: `sessions/index`, `sessions/<s>/state`, `sessions/<s>/events/<type>`; facts `question`, `withdrawn`,
`applied` (gate), `opened`, `cost` (ledger); commands `internal/tmux/{spawn,stop}`,
`internal/watchdog/admit` and, for a session that failed, `sessions/<s>/end`.

Kept (SQLite, survives any crash of processes): a row per session with the offset up to which its agent's
journal is dealt with, its last 10,000 events, prompts that no result covers yet, lines that the agent may not
have read. One transaction per WebSocket message; nothing at all for deltas.

When it dies: agents and bridges wait and connect again. A bridge goes on from the kept offset, so that each
frame has its effect once: each question is asked once, each cost told once, and the events' numbers have no
gap; deltas since the last commit are said again. An agent by `--sdk-url` repeats its frames (dropped here by
uuid) and is asked what is still open; a hook callback that got lost on the way ends by its timeout.

Reading order: `states`, `wire`, `say`, `model`, `step`, `questions`, `delivery`, `turns`, `rest`, `life`,
`deltas`, `registry`, `commands`, `links`, `core`; then `store`, `server`, `shell`.

Sessions followed by their hooks: `hook_wire`, `hook_model`, `hook_questions`, `hook_rules`, `screen`,
`hooks`; then `hooks_server`, `hooks_shell`.
"""
