"""The demonstration: a scripted agent that stands in for `claude` where there is no account.

`script.py` is the little language that says what the "model" does, `agent.py` the program that speaks the
wire protocol of Claude Code. `agent.py` is started once per session, by the dozen: it imports the standard
library only, and little of that.
"""
