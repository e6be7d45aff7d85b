"""A real supervisord with our supervisord.conf, some of its programs exchanged for toys."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import psutil

from services.supervision.conf import supervisord_conf
from tests.support.stack import ROOT


def our_conf(folder: Path, commands: Mapping[str, str], *, directory: Path = ROOT, **settings: str) -> Path:
    """Write our supervisord.conf with these programs alone (``settings`` go to each) and our listener."""
    conf = supervisord_conf()
    for section in conf.sections():
        kind, _, name = section.partition(":")
        if kind == "group" or (kind == "program" and name not in commands):
            conf.remove_section(section)
        elif kind == "program":
            toy = {"command": commands[name], "directory": str(directory)}
            conf[section].update({**toy, "environment": f'PYTHONPATH="{ROOT}"', **settings})
        elif kind == "eventlistener":
            conf[section].update(command=f"{sys.executable} -m services.supervision", directory=str(ROOT))
    path = folder / "supervisord.conf"
    with path.open("w") as file:
        conf.write(file)
    return path


class Supervisord:
    """What it prints goes to ``out``. As a context it is ended, and whatever it left behind."""

    def __init__(self, conf: Path, environ: Mapping[str, str], out: Path) -> None:
        self.out = out
        with out.open("ab") as file:
            self.process = subprocess.Popen(
                [str(Path(sys.executable).parent / "supervisord"), "-c", str(conf)],
                env=dict(environ),
                cwd=conf.parent,
                stdout=file,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
            )

    @property
    def pid(self) -> int:
        return self.process.pid

    def said(self) -> str:
        return self.out.read_text(errors="replace")

    def signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def __enter__(self) -> Supervisord:
        return self

    def __exit__(self, *_: object) -> None:
        below = psutil.Process(self.pid).children(recursive=True) if self.process.poll() is None else []
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        for process in below:
            if process.is_running():
                process.kill()
