"""supervision: what of ours runs inside supervisord and beside it. No service: no bus.

`inside` is what supervisord loads, `logfiles` where the logs lie, `conf` its configuration as others read it;
the rest lets the watchdog speak with it:

supervisord's own interface (start, stop, states) is usually reached by a socket, whose place two stacks of
one supervisord.conf could not share. It has another way in that needs no place: an event listener, whose
*result handler* is a function of ours that supervisord loads and calls (its manual: "Events").

    watchdog ──stdout──▶ supervisord ──event──▶ listener (`__main__`) ──"OK"──▶ supervisord: `handler`
        ▲                                                                          │ stopProcess, startProcess
        └───────────────stdin (sendProcessStdin)───────────────────────────────────┘

What the watchdog writes between two marks on its standard output becomes an event (PROCESS_COMMUNICATION).
The listener takes each event and says "OK", and thereby sets off the handler, which acts by the very
interface that supervisorctl uses. The listener is a process of its own, because events pile up in supervisord
while nobody takes them: it can neither be misconfigured nor be busy.

The words are JSON objects. From the watchdog: ``{}`` ("I live", to each ``processes``), ``{"restart",
"pid"}``, and ``{"start"}`` for one that ended and is left alone. To the watchdog, each ended by a newline:

| fields | when |
|---|---|
| ``processes``: ``[{name, statename, pid, exitstatus}]``, ``figures`` | every 5 s; to be answered |
| ``died``: name | a process ended that nobody had stopped, and is started again |
| ``restarted``: name, ``problem`` | what came of a ``restart`` |
| ``started``: name, ``problem`` | what came of a ``start`` |
| ``restarted``: name, ``reason`` | it was the watchdog itself that hung, as its successor is told |

``figures`` are counts since supervisord's start: ``events`` that the listener took, by type, ``restarts``
that were carried out, those ``refused``, ``processes`` still ``unanswered`` when the next was due, ``faults``
of ours, and ``lines_lost``: of the services' logs, to a full disk. The watchdog serves them to Prometheus,
with what supervisord and the listener use: what is counted happens inside supervisord, where no server of
ours may run, and the listener itself has no configuration that could name a port.

A watchdog that leaves five ``processes`` unanswered hangs, and is restarted in the same way.
"""
