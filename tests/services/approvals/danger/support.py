"""Assessing a shell command as the gate would, in a project of a user called Ada."""

from __future__ import annotations

import json
from dataclasses import replace

from bus.messages import Danger
from services.approvals.danger import assess
from services.approvals.reading import parse
from services.approvals.world import sight
from tests.services.approvals.support import HOME

CWD = "/work/app"
SIGHT = replace(sight(deadline_s=60.0), user_home="/home/ada")  # patient: the machine may be loaded


def assessed(command: str, cwd: str = CWD) -> Danger:
    return assess("Bash", parse(json.dumps({"command": command})), cwd, HOME, SIGHT)


def level(command: str, cwd: str = CWD) -> str:
    return assessed(command, cwd).level
