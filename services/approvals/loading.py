"""The gate's policy from the configuration: as a whole, or not at all."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace

from services._process.config import load_config, user_home
from services._process.config_keys import Config, Device
from services._process.errors import ConfigError
from services.approvals.model import Approver, GoodPolicy
from services.approvals.policy import compile_rules
from services.approvals.rules import Rule, Rules


@dataclass(frozen=True, slots=True)
class Loaded:
    """``mistakes``: then the rules are of no use. ``warnings`` stop nothing."""

    rules: Rules
    good: GoodPolicy
    mistakes: tuple[str, ...] = ()
    devices: Mapping[str, Device] = field(default_factory=dict)

    def warnings(self, approvers: Collection[Approver]) -> list[str]:
        """What is legal and will surprise."""
        people = len(approvers)
        found = []
        over: Rule | None = None
        for rule in self.rules.rules:
            if rule.require > people:
                found.append(
                    f"{rule.name}: takes {rule.require} different approvers, and {people} may approve: "
                    "nothing that it asks about can be approved (`pointsman user add`)"
                )
            if over is not None:
                found.append(
                    f"{rule.name}: is never reached, because {over.name} before it is about everything"
                )
            elif _everything(rule):
                over = rule
        return found


def _everything(rule: Rule) -> bool:
    other = (
        rule.session,
        rule.directory,
        rule.command,
        rule.argument,
        rule.path,
        rule.min_level,
        rule.max_level,
    )
    return any(glob.text == "*" for glob in rule.tool) and not any(other) and rule.decision != "allow"


def loaded(config: Config, environ: Mapping[str, str]) -> Loaded:
    """What the configuration says."""
    approvals = config.approvals
    rules, mistakes = compile_rules(approvals.rules, str(user_home(environ)))
    good = GoodPolicy(
        rules=approvals.rules,
        auto_approve=approvals.auto_approve,
    )
    return Loaded(
        Rules(
            auto_approve=frozenset(approvals.auto_approve),
            timeout_for=approvals.timeout_for,
            rules=rules,
        ),
        good,
        tuple(mistakes),
        config.devices,
    )


def read(environ: Mapping[str, str], text: str | None = None) -> Loaded:
    """The configuration file as it is now, or ``text`` in its place. Never raises: what is wrong with it are
    mistakes.
    """
    try:
        return loaded(load_config(environ, text), environ)
    except ConfigError as error:
        nothing = GoodPolicy(rules=(), auto_approve=())
        return Loaded(Rules(frozenset(), lambda *_: None), nothing, tuple(str(error).splitlines()))


def last_good(found: Loaded, kept: GoodPolicy | None, environ: Mapping[str, str]) -> Loaded:
    """To begin with when the configuration's rules are no good. Raises `ConfigError` where there is nothing
    better.
    """
    if not found.mistakes:
        return found
    if kept is None:
        raise ConfigError("\n".join(found.mistakes))
    rules, mistakes = compile_rules(kept.rules, str(user_home(environ)))
    if mistakes:  # kept by an older version that knew other rules
        raise ConfigError("\n".join(found.mistakes))
    again = replace(
        found.rules,
        auto_approve=frozenset(kept.auto_approve),
        rules=rules,
    )
    return Loaded(again, kept, devices=found.devices)
