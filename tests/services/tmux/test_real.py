"""Real tmux, real bridges, real processes; ingest and agent are stand-ins."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest
from ulid import ULID

from bus import messages as m
from bus import topics as t
from bus.errors import RefusedError
from tests.services.tmux.support import Rig, alive, eventually, run

pytestmark = pytest.mark.real
assert shutil.which("tmux"), "tmux is not installed: `make setup-dev` installs it, or says what to type"


def test_a_session_from_creation_to_end() -> None:
    """The reply is the state; the agent runs as asked; the end leaves nothing."""

    async def body(rig: Rig) -> None:
        state = await rig.new(model="opus", permission_mode="plan", prompt="hello")
        assert (state["session"], state["status"], state["kind"]) == ("demo", "starting", "managed")
        assert state["agent"] == {"name": "claude", "version": "2.1.329", "session_id": None}
        agent = await rig.agent()
        assert agent["cwd"] == str(rig.cwd)
        assert agent["argv"][:1] == ["-p"]
        assert "--permission-prompt-tool stdio" in " ".join(agent["argv"])
        assert "--model opus" in " ".join(agent["argv"])
        assert "--permission-mode plan" in " ".join(agent["argv"])
        [created], [started] = rig.ingest.said("created"), rig.ingest.said("started")
        assert (created.session, created.prompt, created.by) == ("demo", "hello", "operator")
        assert (started.process, started.resume) == (1, None)
        await rig.linked()
        result = await rig.end()
        assert result == {"session": "demo", "uid": state["uid"], "status": "ended"}
        assert not alive(agent["pid"])
        [exited] = rig.ingest.said("exited")
        assert (exited.exit_code, exited.final, exited.failed) == (0, True, False)
        await rig.nothing_left()

    run(body)


def test_no_secret_where_others_can_read_it() -> None:
    """Neither the bearer token nor the user's keys stand on a command line; files are the user's alone."""

    async def body(rig: Rig) -> None:
        state = await rig.new()
        agent = await rig.agent()
        await rig.linked()
        [bearer] = set(rig.ingest.tokens)
        token = bearer.removeprefix("Bearer ")
        assert len(token) >= 43
        for line in rig.processes():
            assert token not in line
            assert "sk-very-secret" not in line
        folder = rig.home.sessions / state["uid"]
        assert folder.stat().st_mode & 0o077 == 0
        assert (folder / "launch.json").stat().st_mode & 0o077 == 0
        assert agent["env"]["ANTHROPIC_API_KEY"] == "sk-very-secret"
        assert agent["env"]["POINTSMAN_SESSION"] == "demo"
        assert agent["env"]["POINTSMAN_NODE"] == "node"
        assert not [name for name in agent["env"] if name.startswith("SUPERVISOR_")]
        assert "PYTHONSAFEPATH" not in agent["env"]
        assert token not in str(agent)
        assert token.encode() not in b"".join(message.payload for message in rig.broker.log)
        assert token not in str(rig.log)
        _, shown = await rig.tmux("show-environment", "-g")
        assert "sk-very-secret" not in shown

    run(body)


def test_the_service_is_restarted() -> None:
    """The next one adopts the session: same agent, same window, and it can be ended."""

    async def body(rig: Rig) -> None:
        await rig.new()
        agent = await rig.agent()
        _, before = await rig.tmux("list-panes", "-a", "-F", "#{pane_id} #{pane_pid}")
        rig.kill_controller()
        await rig.nursery.start(rig.run_controller)  # type: ignore[attr-defined]
        with pytest.raises(RefusedError) as refused:
            await rig.new()
        assert refused.value.code == "name_taken"
        _, after = await rig.tmux("list-panes", "-a", "-F", "#{pane_id} #{pane_pid}")
        assert before == after
        assert alive(agent["pid"])
        await rig.end()
        assert len(rig.starts()) == 1
        await rig.nothing_left()

    run(body)


@pytest.mark.parametrize("what", ["pane", "bridge", "server"])
def test_the_window_dies(what: str) -> None:
    """Pane, bridge or the whole tmux server gone: the agent does not notice, and the window comes back."""

    async def body(rig: Rig) -> None:
        await rig.new()
        agent = await rig.agent()
        await rig.linked()
        _, pids = await rig.tmux("display-message", "-p", "-t", "=demo:", "#{pid} #{pane_pid}")
        server, bridge = map(int, pids.split())
        if what == "pane":
            await rig.tmux("kill-session", "-t", "=demo")
        else:
            os.kill(server if what == "server" else bridge, signal.SIGKILL)
        await eventually(lambda: not alive(bridge), "the old bridge is gone")
        await eventually(lambda: not rig.ingest.links or None, "and its connection")
        await rig.linked()
        code, _ = await rig.tmux("has-session", "-t", "=demo")
        assert code == 0
        assert alive(agent["pid"])
        assert len(rig.starts()) == 1
        await rig.end()
        await rig.nothing_left()

    run(body)


def test_a_stubborn_agent_is_killed() -> None:
    """It hears neither ingest nor SIGINT nor SIGTERM; after three steps it is gone all the same."""

    async def body(rig: Rig) -> None:
        await rig.new()
        agent = await rig.agent()
        rig.ingest.bus.publish(t.SERVICE_STATUS, "offline", self="ingest")  # asking is left out then
        await rig.linked()
        rig.broker.publish("pointsman/node/services/ingest/status", "online", retain=True)
        await rig.end()
        assert not alive(agent["pid"])
        [exited] = rig.ingest.said("exited")
        assert exited.exit_code == -signal.SIGKILL
        assert exited.final
        await rig.nothing_left()

    run(body, FAKE_STUBBORN="1")


def test_an_agent_that_dies_and_is_started_again() -> None:
    """The exit is told, not final; ingest asks for the next process, which resumes the conversation."""

    async def body(rig: Rig) -> None:
        state = await rig.new()
        agent = await rig.agent()
        await rig.linked()
        os.kill(agent["pid"], signal.SIGKILL)
        [exited] = await eventually(lambda: rig.ingest.said("exited"), "the exit is told")
        assert (exited.process, exited.exit_code, exited.final) == (1, -9, False)
        spawn = m.SpawnAgent(id="spawn-2", uid=state["uid"], process=2, resume="conversation-1")
        for _ in range(2):  # twice, as after a lost reply
            assert await rig.ask(t.SPAWN_AGENT, spawn) == {"process": 2}
        second = await rig.agent(2)
        assert "--resume conversation-1" in " ".join(second["argv"])
        assert rig.ingest.said("started")[-1] == m.AgentStarted(process=2, resume="conversation-1")
        await rig.linked()
        await rig.end()
        assert len(rig.starts()) == 2
        await rig.nothing_left()

    run(body)


def test_an_agent_that_ends_the_session() -> None:
    """It ends with 0 and nobody had asked: the session is over."""

    async def body(rig: Rig) -> None:
        await rig.new()
        agent = await rig.agent()
        await rig.linked()
        os.kill(agent["pid"], signal.SIGINT)
        [exited] = await eventually(lambda: rig.ingest.said("exited"), "the exit is told")
        assert (exited.exit_code, exited.final, exited.failed) == (0, True, False)
        await rig.nothing_left()

    run(body)


@pytest.mark.parametrize(
    ("more", "code", "text"),
    [
        ({"session": "Bad_Name"}, "bad_name", "is not a session name"),
        ({"session": "a/b"}, "bad_name", "is not a session name"),
        ({"cwd": "/nowhere/at/all"}, "bad_cwd", "is not there"),
        ({"cwd": "/etc/passwd"}, "bad_cwd", "is not a directory"),
        ({"cwd": "here"}, "bad_cwd", "absolute"),
        ({"kind": "sdk-url"}, "agent_version", "use the kind `managed`"),
        ({"kind": "external"}, "bad_request", "hooks install"),
        ({"agent": "codex"}, "unavailable", "runs the agent `claude` alone"),
        ({"permission_mode": "bypassPermissions"}, "not_allowed", "max_permission_mode"),
        ({"model": "--dangerously-skip-permissions"}, "bad_request", "model"),
        ({"resume": "-x"}, "bad_request", "resume"),
    ],
)
def test_refusals(more: dict[str, Any], code: str, text: str) -> None:
    """Each says what is wrong, and leaves nothing half made."""

    async def body(rig: Rig) -> None:
        command = m.CreateSession(**{"session": "demo", "cwd": str(rig.cwd), **more})
        with pytest.raises(RefusedError) as refused:
            await rig.ask(t.SESSION_CREATE, command)
        assert refused.value.code == code
        assert text in refused.value.message
        assert rig.ingest.facts == []
        await rig.nothing_left()

    run(body)


@pytest.mark.parametrize(
    ("environ", "code", "text"),
    [
        ({"FAKE_VERSION": "2.1.41"}, "agent_version", "2.1.42"),
        ({"FAKE_VERSION": "none of your business"}, "agent_version", "is it Claude Code?"),
        ({"PATH": "/usr/bin:/bin"}, "agent_missing", "install Claude Code"),
        ({"PATH": "/nowhere"}, "unavailable", "apt install tmux"),
    ],
)
def test_a_machine_that_lacks_something(environ: dict[str, str], code: str, text: str) -> None:
    async def body(rig: Rig) -> None:
        with pytest.raises(RefusedError) as refused:
            await rig.new()
        assert refused.value.code == code
        assert text in refused.value.message
        with pytest.raises(RefusedError) as again:  # the service is still there
            await rig.end("nobody")
        assert again.value.code == "unknown_session"
        await rig.nothing_left()

    run(body, **environ)


def test_ingest_refuses() -> None:
    """The name may live elsewhere (an external session): nothing is left of ours."""

    async def body(rig: Rig) -> None:
        rig.ingest.refuse["created"] = "name_taken"
        with pytest.raises(RefusedError) as refused:
            await rig.new()
        assert refused.value.code == "name_taken"
        await rig.nothing_left()
        rig.ingest.refuse.clear()
        await rig.new()

    run(body)


def test_the_creation_survives_a_restart() -> None:
    """Killed while ingest is away: the next controller goes on, and answers under the same id."""

    async def body(rig: Rig) -> None:
        rig.ingest.silent = True
        command = m.CreateSession(id="once", session="demo", cwd=str(rig.cwd), by="operator", via="cli")
        rig.user.publish(t.SESSION_CREATE, command)
        await eventually(lambda: rig.broker.said(t.FACTS, producer="tmux", owner="ingest"), "created is said")
        rig.kill_controller()
        await rig.nursery.start(rig.run_controller)  # type: ignore[attr-defined]
        rig.ingest.silent = False
        state = await rig.ask(t.SESSION_CREATE, command)
        assert state["session"] == "demo"
        await rig.agent()
        assert len(rig.ingest.said("created")) == 1
        assert len(rig.starts()) == 1

    run(body)


def test_windows_of_others_are_left_alone() -> None:
    """A session without our mark stays, an orphan with it goes; a taken window name is no obstacle."""

    async def body(rig: Rig) -> None:
        await rig.tmux("-f", "/dev/null", "new-session", "-d", "-s", "demo", "sleep", "1000")
        await rig.tmux("new-session", "-d", "-s", "orphan", "sleep", "1000")
        await rig.tmux("set-option", "-p", "-t", "=orphan:", "@pointsman_uid", "01ORPHAN")
        await rig.tmux("set-option", "-p", "-t", "=orphan:", "@pointsman_process", "1")
        await rig.new()
        await rig.agent()
        _, names = await rig.tmux("list-sessions", "-F", "#{session_name}")
        assert "demo" in names.split()
        assert len([name for name in names.split() if name.startswith("demo-")]) == 1
        await rig.end()
        await rig.shows("demo", "list-sessions", "-F", "#{session_name}")

    run(body)


def left_behind(folder: Path, uid: str) -> tuple[subprocess.Popen[bytes], subprocess.Popen[bytes]]:
    """What is left of an agent whose directory was removed, and of something that an agent started."""
    folder.mkdir()
    environ = {"PATH": os.environ["PATH"], "POINTSMAN_SESSION_UID": uid}
    sleep = [sys.executable, "-c", "import time; time.sleep(600)", str(folder)]
    with (folder / "out.1").open("wb") as out:
        agent = subprocess.Popen(sleep, stdout=out, env=environ, start_new_session=True)
    child = subprocess.Popen(sleep, env=environ, start_new_session=True)
    shutil.rmtree(folder)
    return agent, child


def test_an_agent_that_no_record_knows_is_ended_at_the_start_and_told() -> None:
    """Its directory is gone as well; a process beside it that only looks like it lives on."""

    async def body(rig: Rig) -> None:
        rig.kill_controller()
        uid = str(ULID())
        agent, child = left_behind(rig.home.sessions / uid, uid)
        try:
            await rig.nursery.start(rig.run_controller)  # type: ignore[attr-defined]  # set by the rig
            await eventually(lambda: agent.poll() is not None, "the orphan is ended")
            await eventually(lambda: rig.broker.said(t.ORPHAN_REMOVED), "it is told")
            assert f"agent (pid {agent.pid}) of {uid}" in rig.broker.said(t.ORPHAN_REMOVED)[0].decode()
            assert child.poll() is None
        finally:
            for process in (agent, child):
                process.kill()
                process.wait()

    run(body)


def test_an_agent_that_connects_by_itself() -> None:
    """sdk-url: token in the environment, exit code learnt, the window may die."""

    async def body(rig: Rig) -> None:
        state = await rig.new(kind="sdk-url")
        assert state["kind"] == "sdk-url"
        agent = await rig.agent()
        argv = " ".join(agent["argv"])
        assert argv.startswith("--sdk-url ws://localhost:")
        assert "/ws/sessions/demo --print" in argv
        assert agent["argv"][-2:] == ["-p", ""]
        token = agent["env"]["CLAUDE_CODE_SESSION_ACCESS_TOKEN"]
        assert not [line for line in rig.processes() if token in line]
        _, pids = await rig.tmux("display-message", "-p", "-t", "=demo:", "#{pid}")
        os.kill(int(pids), signal.SIGKILL)
        await eventually(
            lambda: [line for line in rig.processes() if line.startswith("tmux")], "a new server"
        )
        assert alive(agent["pid"])
        rig.broker.publish("pointsman/node/services/ingest/status", "offline", retain=True)
        await rig.end()
        assert len(rig.starts()) == 1
        [exited] = rig.ingest.said("exited")
        assert (exited.exit_code, exited.final) == (0, True)
        await rig.nothing_left()

    run(body, FAKE_VERSION="2.1.120")


def test_hints_follow_the_session() -> None:
    """The window's status line says what the session is doing."""

    async def body(rig: Rig) -> None:
        state = await rig.new()
        raw = msgspec.convert({**state, "status": "waiting_approval"}, m.SessionState)
        rig.ingest.bus.publish(t.SESSION_STATE, raw, session="demo")
        await rig.shows("waiting approval", "display-message", "-p", "-t", "=demo:", "#{@pointsman_hint}")

    run(body)
