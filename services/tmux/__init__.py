"""The tmux controller: creates, finds and ends sessions, each in a window of its own tmux server.

Reads: the commands ``sessions/create``, ``sessions/<s>/end`` and ``internal/tmux/{spawn,stop,type}`` (`stop`
ends the agent and keeps the session, which then hibernates; `type` goes into a screen); the status of ingest
and of the watchdog, which is asked to admit each session (``internal/watchdog/admit``); session states, for
the hint in each window. Says: replies; the facts ``created``, ``started``, ``exited`` and ``screen`` to
ingest; the commands ``internal/ingest/end`` and ``internal/watchdog/orphan``.

Keeps (``tmux.sqlite``, 0600): one record for each session from its command until nothing of it is left, with
the agent's bearer token, of which only the hash is ever said; and the outbox of its facts.

When it dies: agents, bridges and windows go on. The next one reads its records, looks at windows, pid and
exit files, and does what is to be done: a creation goes on where it was, an end is carried through, an
agent's exit is told. Nothing can be created or ended meanwhile. When the tmux server dies (kill -9), agents
go on too, and their windows are opened again within a second or two. Without tmux on the machine the service
stays up and answers ``unavailable``.

    model           in which words: the theory of operation, the table of states
    core            what is decided; `judging` what a look at the world means; `steps` from state to state
    agents          versions, command lines and environments of agents
    cli             tmux's command lines and output
    screen          what stands on the screen of an interactive session
    orphans         agents and bridges that no record knows, half-written files
    shell, world    the service on the bus; tmux, files and processes
    launcher        what runs in the window of an agent that connects by itself
    screen_window   what runs in the window of an interactive one
"""
