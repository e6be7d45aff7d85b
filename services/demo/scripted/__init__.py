"""The scripted agent, in parts. `services/demo/agent.py` starts it.

It is started by the dozen (demo, load tests), and as a file: then this folder is the package `scripted`,
and the package `services`, whose imports cost more than the whole agent, is not wanted. Therefore the parts
name each other relatively, and import little of the standard library: no `typing`, `pathlib`, `asyncio`,
`subprocess`, `uuid` or `argparse` (`python -X importtime` shows why).

It is one thread and one `poll` (`loop`). A turn (`turn`) is a generator that yields what it waits for:

| it yields | and is sent |
|---|---|
| `("sleep", seconds)` | nothing |
| `("answer", request_id, timeout_s)` | the host's answer, `None` when it came not in time (`host`) |
| `("child", child)` | exit code and output of the command (`child`) |

    session                     what the parts share
    host, wire                  the host at the other end; what frames are made of
    controls                    what it asks of the agent
    turn, answer                a turn; one answer of the "model" in it
    script                      the language in which a prompt says what the "model" does
    permission, hooks           whether a tool may run
    tools, child                the tools, and the commands that they run
    conversation, bill          what `--resume` takes up again; what it has cost
    options, record             the command line; the agent's own record for observers
"""
