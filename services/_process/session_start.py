"""`python -I -S session_start.py FILE PID`: the command hook of SessionStart, which takes no URL.

Posts what stands on stdin to the listener that FILE names (``{"url", "token"}``), and has no opinion:
whatever goes wrong, it ends quietly with 0, within `TIMEOUT_S`. Started for every session of the user, so it
imports next to nothing and speaks HTTP/1.0 by hand: one request, the answer is not read to its end.
"""

from __future__ import annotations

import json
import os
import socket
import sys

TIMEOUT_S = 1.0
MAX_BODY = 1024 * 1024


def main(file: str, pid: str) -> None:
    with open(file, encoding="utf-8") as opened:  # pathlib would double the start
        where = json.load(opened)
    body = sys.stdin.buffer.read(MAX_BODY)
    host, _, port = where["url"].rpartition("/")[2].rpartition(":")
    head = (
        f"POST /hook/SessionStart HTTP/1.0\r\nHost: {host}:{port}\r\n"
        f"Authorization: Bearer {where['token']}\r\n"
        f"X-Pointsman-Session: {os.environ.get('POINTSMAN_SESSION', '')}\r\nX-Pointsman-Pid: {pid}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    with socket.create_connection((host, int(port)), TIMEOUT_S) as connection:
        connection.sendall(head.encode("latin-1") + body)
        connection.recv(1024)


if __name__ == "__main__":
    try:
        main(sys.argv[1], sys.argv[2])
    except Exception:  # noqa: BLE001  # Claude Code must not notice whatever is wrong with us
        os._exit(0)
