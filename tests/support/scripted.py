"""A whole stack whose agents are scripted (`services/demo/agent.py`) and keep a record of what they did."""

from __future__ import annotations

import os
from pathlib import Path

from services.demo.stack import scripted_claude
from tests.support.cli_versions import claude_path
from tests.support.messages_api import MessagesApi
from tests.support.real_cli import clean_env
from tests.support.stack import Stack


class ScriptedStack(Stack):
    """In ``folder``, which is made if need be. Not started yet.

    ``record``: the agents' own record; ``transcripts``: what they keep of their conversations; ``work``: one
    directory per session. ``api``: the real Claude Code CLI with this model instead, which keeps no record.
    """

    def __init__(self, folder: Path, *, api: MessagesApi | None = None, **settings: str) -> None:
        self.record = folder / "agents.jsonl"
        self.transcripts = folder / "claude"
        self.work = folder / "work"
        self.work.mkdir(parents=True)
        if api is not None:
            environment = clean_env(folder, api.url, CLAUDE_CONFIG_DIR=str(self.transcripts))
            program = claude_path()
        else:
            environment = {
                "PATH": os.environ["PATH"],
                "HOME": str(folder),
                "LANG": "C.UTF-8",
                "CLAUDE_CONFIG_DIR": str(self.transcripts),
                "POINTSMAN_SCRIPTED_RECORD": str(self.record),
            }
            program = scripted_claude(folder)
        super().__init__(folder / "h", environment, POINTSMAN_AGENT_CLAUDE=str(program), **settings)

    def open(self, name: str, *more: str) -> None:
        """A session in a directory of its own, with a model that has a price: costs can be told by tokens."""
        (self.work / name).mkdir()
        self.pointsman("new", name, "--cwd", str(self.work / name), "--model", "claude-opus-5-5", *more)
