"""The hooks' listener on a real socket: who may speak, what bad input does, and requests that wait."""

from __future__ import annotations

import json
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import h11
import pytest
import trio

from services._process import hook_settings
from services.ingest import hooks_server
from services.ingest.hooks_server import HooksServer, Request

TOKEN = "the-token"


class Shell:
    """Answers everything but PermissionRequest at once."""

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self.ended: list[tuple[str, int]] = []
        self.came = trio.Event()
        self.over = trio.Event()

    def knows(self, token: str) -> bool:
        return token == TOKEN

    def asked(self, request: Request) -> None:
        self.requests.append(request)
        if request.event != "PermissionRequest":
            request.answer('{"at":"once"}')
        self.came.set()

    def unread(self, request: Request, status: int) -> None:
        request.answer('{"un":"read"}', status)

    def lost(self, request: Request) -> None:
        self.ended.append(("lost", request.number))
        self.over.set()

    def done(self, request: Request) -> None:
        self.ended.append(("done", request.number))


Connect = Callable[[], Awaitable["Client"]]


@asynccontextmanager
async def listening() -> AsyncIterator[tuple[Shell, int, Connect]]:
    """A listener, its port, and a way to connect; what was connected is closed."""
    shell = Shell()
    clients: list[Client] = []

    async def connect() -> Client:
        clients.append(Client(await trio.open_tcp_stream("127.0.0.1", port), port))
        return clients[-1]

    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            port: int = await nursery.start(HooksServer(shell).run, "127.0.0.1", 0)
            try:
                yield shell, port, connect
            finally:
                for client in clients:
                    await trio.aclose_forcefully(client.stream)
                nursery.cancel_scope.cancel()


class Client:
    """One keep-alive connection, as Claude Code's."""

    def __init__(self, stream: trio.SocketStream, port: int) -> None:
        self.stream, self.port = stream, port
        self.http = h11.Connection(h11.CLIENT)

    async def send(self, path: str = "/hook/Stop", body: bytes = b"{}", **headers: str | None) -> None:
        given: dict[str, str | None] = {
            "Host": f"127.0.0.1:{self.port}", "Authorization": f"Bearer {TOKEN}",
            "Content-Length": str(len(body)), **headers,
        }  # fmt: skip
        method = given.pop("method", None) or "POST"
        request = h11.Request(
            method=method, target=path, headers=[(k, v) for k, v in given.items() if v is not None]
        )
        parts = [request, h11.Data(data=body), h11.EndOfMessage()]
        await self.stream.send_all(b"".join(self.http.send(part) or b"" for part in parts))

    async def read(self) -> tuple[int, Any]:
        status, body = 0, b""
        while True:
            event = self.http.next_event()
            if event is h11.NEED_DATA:
                self.http.receive_data(bytes(await self.stream.receive_some(65536)))
            elif isinstance(event, h11.Response):
                status = event.status_code
            elif isinstance(event, h11.Data):
                body += event.data
            else:
                break
        if self.http.our_state is h11.DONE and self.http.their_state is h11.DONE:
            self.http.start_next_cycle()
        return status, json.loads(body)


@pytest.mark.parametrize(
    ("headers", "path", "status"),
    [
        ({}, "/hook/Stop", 200),
        ({"Host": "localhost"}, "/hook/Stop", 200),
        ({"Host": "[::1]:6182"}, "/hook/Stop", 200),
        ({"Host": "evil.example:6182"}, "/hook/Stop", 403),
        ({"Host": "127.0.0.1.evil.example"}, "/hook/Stop", 403),
        ({"Origin": "http://127.0.0.1:6182"}, "/hook/Stop", 403),
        ({"Origin": "null"}, "/hook/Stop", 403),
        ({"Authorization": None}, "/hook/Stop", 401),
        ({"Authorization": "Bearer another"}, "/hook/Stop", 401),
        ({"Authorization": f"Basic {TOKEN}"}, "/hook/Stop", 401),
        ({}, "/hook/", 404),
        ({}, "/hook/Stop/x", 404),
        ({}, "/hook/..%2f", 404),
        ({"method": "GET"}, "/hook/Stop", 405),
        ({"Content-Length": str(hooks_server.MAX_BODY + 1)}, "/hook/Stop", 413),
    ],
)
def test_who_may_speak(headers: dict[str, Any], path: str, status: int) -> None:
    async def main() -> None:
        async with listening() as (shell, _, connect):
            client = await connect()
            if "Content-Length" in headers:  # said, and never sent
                text = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {TOKEN}\r\n"
                text += f"Content-Length: {headers['Content-Length']}\r\n\r\n"
                client.http.send(h11.Request(method="GET", target="/", headers=[("Host", "x")]))
                await client.stream.send_all(text.encode())
            else:
                await client.send(path, **headers)
            assert (await client.read())[0] == status
            assert len(shell.requests) == (status == 200)

    trio.run(main)


def test_one_connection_carries_many_hooks() -> None:
    async def main() -> None:
        async with listening() as (shell, _, connect):
            client = await connect()
            for body in (b"{}", b"x" * 300_000):
                await client.send(body=body)
                assert await client.read() == (200, {"at": "once"})
            assert [len(r.body) for r in shell.requests] == [2, 300_000]
            assert {what for what, _ in shell.ended} == {"done"}

    trio.run(main)


def test_a_request_waits_for_its_answer_and_others_do_not_wait_for_it() -> None:
    async def main() -> None:
        async with listening() as (shell, _, connect):
            waiting, other = await connect(), await connect()
            await waiting.send("/hook/PermissionRequest")
            await shell.came.wait()
            await other.send()
            assert (await other.read())[0] == 200
            shell.requests[0].answer('{"late":true}')
            shell.requests[0].answer('{"twice":true}')
            assert await waiting.read() == (200, {"late": True})
            await waiting.send()
            assert (await waiting.read())[0] == 200

    trio.run(main)


def test_a_client_that_hangs_up_is_noticed() -> None:
    async def main() -> None:
        async with listening() as (shell, _, connect):
            client = await connect()
            await client.send("/hook/PermissionRequest")
            await shell.came.wait()
            await client.stream.aclose()
            await shell.over.wait()
            assert shell.ended == [("lost", 1)]

    trio.run(main)


def test_whatever_is_no_http_ends_that_connection_alone() -> None:
    async def main() -> None:
        async with listening() as (_, _port, connect):
            for junk in (
                b"\x16\x03\x01\x02",
                b"GET\r\n\r\n",
                b"POST /hook/Stop HTTP/1.1\r\n" + b"x: y\r\n" * 20_000,
            ):
                stream = (await connect()).stream
                await stream.send_all(junk + b"\r\n\r\n")
                try:
                    while await stream.receive_some(65536):
                        pass
                except trio.BrokenResourceError:
                    pass  # it hung up on what it had not read
            client = await connect()
            await client.send()
            assert (await client.read())[0] == 200

    trio.run(main)


def test_the_start_command_posts_and_is_harmless_without_anybody(tmp_path: Path) -> None:
    """The command of SessionStart, run by a shell as Claude Code does."""

    async def run(secret: Path, **environment: str) -> subprocess.CompletedProcess[bytes]:
        [group] = hook_settings.hooks("http://127.0.0.1:1", TOKEN, tmp_path, secret)["SessionStart"]
        command = group["hooks"][0]["command"]
        return await trio.run_process(
            ["/bin/sh", "-c", command], stdin=b'{"x":1}', env={"PATH": "/usr/bin:/bin", **environment},
            capture_stdout=True, capture_stderr=True, check=False,
        )  # fmt: skip

    async def main() -> None:
        secret = tmp_path / "a b" / "hooks.json"
        secret.parent.mkdir()
        async with listening() as (shell, port, _):
            where = {"url": f"http://127.0.0.1:{port}", "token": TOKEN}
            results = [await run(secret)]  # no file
            secret.write_text(json.dumps(where))
            results.append(await run(secret, POINTSMAN_SESSION="mine"))
            [request] = shell.requests
            assert (request.event, request.inside, request.body) == ("SessionStart", "mine", b'{"x":1}')
            assert request.pid > 1
            secret.write_text(json.dumps({**where, "url": "http://127.0.0.1:1"}))
            results.append(await run(secret))  # nobody listens
            secret.write_text("{")
            results.append(await run(secret))
            assert [(r.returncode, r.stdout, r.stderr) for r in results] == [(0, b"", b"")] * 4

    trio.run(main)
