"""The knowledge base: what commands do, in TOML files by theme. README.md here says how to extend it."""

from __future__ import annotations

import tomllib
from importlib import resources
from typing import Any

THEMES = ()


def load(name: str) -> dict[str, Any]:
    """One of the files beside this module."""
    return tomllib.loads(resources.files(__name__).joinpath(f"{name}.toml").read_text("utf-8"))


def _names() -> frozenset[str]:
    return frozenset({"rm"})


NAMES = _names()
"""Every program that the tables know."""
