"""The bridge: carries the frames of an agent that runs over stdio to ingest, and shows them in the tmux
window.

A program of its own, `python -m services.bridge <session dir>`; it is not on the bus and speaks
`bus.bridge_wire` with ingest. One run serves one agent process, the one that `launch.json` names; for the
next one the tmux service starts another.

Kept in the session directory (0700), `<N>` being the number of the agent process:
`launch.json` (0600, made by the tmux service): argv, cwd, environment, bearer token;
`in.<N>` a FIFO, the agent's stdin; `out.<N>` its stdout, append only, which is the journal as well;
`err.<N>`; `keep.<N>` locked by the keeper while it lives; `pid.<N>`, `exit.<N>` (`{"code", "at"}`) written by
the keeper; `written` how far lines went into stdin and what ingest has acknowledged; `bridge.lock`.

When it dies: nothing happens to the agent, which belongs to its keeper (`keeper.py`), and nothing is lost.
The next bridge goes on from the byte that ingest has kept. A line that went into the FIFO in the moment of
death is written twice; agents drop duplicate prompts and answers by their ids. When ingest is away the
journal grows and the window goes on. When the keeper dies (kill -9, power), the bridge watches the agent
itself and reports its exit with code null.

    core, model             what the bridge decides, and over which values
    shell, link, watch      files, FIFO and time for it; a connection to ingest; how files grow
    files, pipe             the session directory; whole lines into the agent's stdin
    window, view, text      the tmux window: what it shows, how frames look, text for a terminal
    keeper                  the program that starts the agent and holds its stdin open
    figures                 how it and its keeper are, told to ingest, which serves that to Prometheus

Exit codes: 0 the agent's exit was reported, or SIGTERM/SIGHUP; 2 launch.json; 3 refused by ingest, or another
bridge runs; 4 the world (keeper or files); 70 a bug of ours.
"""
