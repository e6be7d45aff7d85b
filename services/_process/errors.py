"""What may go wrong around a process, by whose fault it is; `run` turns each into an exit code."""

from __future__ import annotations


class ConfigError(Exception):
    """The user's fault: a key, variable or file of the configuration. Exit code 2.

    The text has one line for each mistake: key, value, what is allowed, and where the value came from.
    """


class WorldError(Exception):
    """The world's fault: a port taken, a program missing, a disk full. Exit code 4, tried again later.

    The text says what is in the way and what to do.
    """


class HomeError(ConfigError):
    """The home directory cannot be used as it is: somebody else's, or open to others."""


class LockHeldError(Exception):
    """The same service already runs for this home: as process ``pid``, if that is known. Exit code 3."""

    def __init__(self, text: str, pid: int | None = None) -> None:
        super().__init__(text)
        self.pid = pid


class PortTakenError(WorldError):
    """A port that the user chose is in use; the text names the process where it can be seen."""
