"""`pointsman hooks`: into a settings file and out again, and nothing else in it is touched."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services._process import hook_settings
from services.cli import settings_file
from services.cli.settings_file import SettingsError
from tests.services.cli.support import Stage, play

HOME, SECRET = Path("/home/user/.local/state/pointsman"), Path("/home/user/x y/hooks.json")
HOOKS = hook_settings.hooks("http://127.0.0.1:6182", "tok", HOME, SECRET)


def is_ours(hook: Any) -> bool:
    return hook_settings.is_ours(hook, HOME, SECRET)


FOREIGN = {"type": "command", "command": "notify-send done"}
GROUP = st.fixed_dictionaries(
    {"hooks": st.lists(st.just(FOREIGN), max_size=2)}, optional={"matcher": st.just("Bash")}
)
VALUE = st.recursive(st.none() | st.booleans() | st.integers() | st.text(max_size=5), st.lists, max_leaves=5)
SETTINGS = st.dictionaries(st.text(max_size=8).filter(lambda key: key != "hooks"), VALUE, max_size=4).flatmap(
    lambda rest: st.one_of(
        st.just(rest),
        st.dictionaries(
            st.sampled_from(["Stop", "PreToolUse", "Mine"]), st.lists(GROUP, min_size=1, max_size=2)
        ).map(lambda hooks: {**rest, "hooks": hooks} if hooks else rest),
    )
)


@given(SETTINGS, st.sampled_from([None, 2, 4, "\t"]), st.sampled_from(["", "\n"]))
def test_in_and_out_again_changes_nothing(settings: dict[str, Any], indent: Any, end: str) -> None:
    """Also where something else was changed in between, and for files that were written by hand."""
    before = (json.dumps(settings, indent=indent, ensure_ascii=False) + end).encode("utf-8", "surrogatepass")
    inside = settings_file.with_hooks(before, HOOKS, is_ours)
    value = json.loads(inside)
    assert {key: value[key] for key in settings if key != "hooks"} == {
        k: v for k, v in settings.items() if k != "hooks"
    }
    assert set(settings_file.ours(inside, is_ours)) == set(HOOKS)
    assert settings_file.with_hooks(inside, HOOKS, is_ours) == inside, "twice is once"
    assert json.loads(settings_file.without_hooks(inside, is_ours)) == settings
    changed = json.dumps({**value, "theme": "dark"}).encode("utf-8", "surrogatepass")
    assert json.loads(settings_file.without_hooks(changed, is_ours)) == {**settings, "theme": "dark"}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (b'{"a": 1, // why\n}', "line 1, column 10"),
        (b'{"a": 1', "not valid JSON"),
        (b"[1]", "no JSON object"),
        (b'{"hooks": []}', '"hooks" is no object'),
        (b'{"hooks": {"Stop": {}}}', "no list of groups"),
        (b'{"hooks": {"Stop": [1]}}', "no list of groups"),
        (b'{"a": 1, "a": 2}', "twice"),
        (b"\xff\xfe", "UTF-8"),
    ],
)
def test_a_file_that_is_not_understood_is_not_touched(text: bytes, says: str) -> None:
    with pytest.raises(SettingsError, match=says):
        settings_file.with_hooks(text, HOOKS, is_ours)


def test_the_verbs(stage: Stage) -> None:
    async def body(stage: Stage) -> None:
        path = stage.folder / ".claude" / "settings.json"
        result = await stage.pointsman("hooks", "install")
        assert (result.code, "make run" in result.err) == (1, True), "never started: no port, no token"
        stage.home.update_endpoints("ingest", {"hooks_port": 7182})
        stage.home.read_or_make_secret("hooks-token")

        assert (await stage.pointsman("hooks", "install", "--json")).json["hooks"] == "installed"
        assert "http://127.0.0.1:7182/hook/Stop" in path.read_text()
        assert path.stat().st_mode & 0o777 == 0o600
        assert (await stage.pointsman("hooks", "remove")).code == 0
        assert not path.parent.exists(), "it had not been there"

        path.parent.mkdir()
        before = b'{ "model":"opus",\n\t"hooks": {"Stop":[{"hooks":[{"type":"command","command":"x"}]}]}}'
        path.write_bytes(before)
        path.chmod(0o640)
        for _ in range(2):
            assert (await stage.pointsman("hooks", "install", "--user")).code == 0
        path.chmod(0o644)
        assert "chmod 600" in (await stage.pointsman("hooks", "status")).out
        path.chmod(0o600)
        assert (await stage.pointsman("hooks", "status", "--json")).json["problems"] == []
        stage.home.update_endpoints("ingest", {"hooks_port": 7183})
        assert "renews" in (await stage.pointsman("hooks", "status")).out
        assert (await stage.pointsman("hooks", "install")).code == 0
        assert (await stage.pointsman("hooks", "remove")).code == 0
        assert (path.read_bytes(), path.stat().st_mode & 0o777) == (before, 0o640)

        await stage.pointsman("hooks", "install")
        path.write_bytes(path.read_bytes().replace(b"opus", b"sonnet"))
        assert (await stage.pointsman("hooks", "remove", "--json")).json["hooks"] == "not installed"
        assert json.loads(path.read_bytes()) == json.loads(before.replace(b"opus", b"sonnet"))

        path.chmod(0o444)
        kept = path.read_bytes()
        result = await stage.pointsman("hooks", "install")
        assert (result.code, "chmod u+w" in result.err) == (1, True)
        assert (path.read_bytes(), path.stat().st_mode & 0o777) == (kept, 0o444)
        path.chmod(0o600)
        dotfile = path.rename(stage.folder / "dotfile.json")
        path.symlink_to(dotfile)
        await stage.pointsman("hooks", "install")
        assert (path.is_symlink(), dotfile.read_bytes() != kept) == (True, True)
        await stage.pointsman("hooks", "remove")
        assert (path.is_symlink(), dotfile.read_bytes()) == (True, kept)
        path.unlink()

        path.write_bytes(b'{"disableAllHooks": true}')
        assert "Claude Code runs none" in (await stage.pointsman("hooks", "install")).out
        assert "Claude Code runs none" in (await stage.pointsman("hooks", "status")).out
        await stage.pointsman("hooks", "remove")

        path.write_bytes(b"{,}")
        for what in ("install", "remove", "status"):
            result = await stage.pointsman("hooks", what)
            assert (result.code, "line 1, column 2" in result.err) == (1, True)
        assert path.read_bytes() == b"{,}"
        assert (await stage.pointsman("hooks")).code == 2
        assert (await stage.pointsman("hooks", "install", "--user", "--project")).code == 2

    play(stage, body)
