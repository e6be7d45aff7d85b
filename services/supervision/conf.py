"""Our supervisord.conf, for who starts a service as supervisord would: tests and benchmarks."""

from __future__ import annotations

import configparser
from pathlib import Path

from supervisor.datatypes import dict_of_key_value_pairs

ROOT = Path(__file__).resolve().parents[2]


def supervisord_conf() -> configparser.RawConfigParser:
    """As supervisord reads it, but for ``%(here)s``."""
    conf = configparser.RawConfigParser(inline_comment_prefixes=(" ;",))
    conf.read(ROOT / "supervisord.conf")
    return conf


def environment_of(service: str) -> dict[str, str]:
    """What it adds to this service's environment."""
    found: dict[str, str] = dict_of_key_value_pairs(supervisord_conf()[f"program:{service}"]["environment"])
    return found
