"""The `pointsman` command: what a person or a script does with a running Pointsman.

Only over the bus, as the user `operator`: it opens no service's database. From the home it reads what is
meant for it: ``endpoints.json``, the password file, logs. Every verb takes ``--json`` and ends with 0 (done),
1 (refused), 2 (wrong usage or configuration) or 3 (the bus cannot be reached).

    __main__, parser    the command line; what each verb takes
    line                the connection: snapshots that are complete, commands that are answered
    sessions, approvals, policy, users, money, costs, budget, watch, logs, hooks, system, doctor    the verbs
    view, text, out     how things look; nothing an agent says reaches the terminal unfiltered
    settings_file       Claude Code's settings, for `hooks`
    complete            names for the shell's tab key
"""
