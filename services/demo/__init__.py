"""The demonstration: a scripted agent that stands in for `claude` where there is no account.

`agent.py` is the program that speaks the wire protocol of Claude Code, `scripted/` its parts; among them
`script.py`, the little language that says what the "model" does. `stack.py` is the stack that `make demo`
shows, `picture.py` draws what the README shows of it.
"""
