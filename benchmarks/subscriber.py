"""A subscriber that is never the bottleneck: MQTT by hand on a plain socket, frames counted in the bytes.

Each frame's text carries `STAMP` (20 digits and a bar), so bars in the stream are frames, joined or not, and
the digits before one are when it was sent. Prints ``{"ready":…}``, then, after ``--frames`` frames or
``--timeout`` seconds without any, one JSON line with the count, the time from first to last, and (with
``--latency``) percentiles in milliseconds.
"""

from __future__ import annotations

import argparse
import json
import re
import socket
import statistics
import struct
import time
from pathlib import Path

STAMPS = re.compile(rb"(\d{20})\|")


def _string(text: str) -> bytes:
    raw = text.encode()
    return struct.pack("!H", len(raw)) + raw


def _packet(kind: int, body: bytes) -> bytes:
    size, head = len(body), b""
    while True:
        size, digit = size >> 7, size & 0x7F
        head += bytes([digit | (0x80 if size else 0)])
        if not size:
            return bytes([kind]) + head + body


def connect(port: int, username: str, password: str, filters: list[str]) -> socket.socket:
    """A socket that receives everything published on the filters, QoS 0."""
    sock = socket.create_connection(("127.0.0.1", port))
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    flags = 0x02 | (0xC0 if username else 0)
    body = _string("MQTT") + bytes([4, flags]) + struct.pack("!H", 0) + _string(f"bench-{time.time_ns()}")
    if username:
        body += _string(username) + _string(password)
    sock.sendall(_packet(0x10, body))
    if sock.recv(4)[3:] != b"\0":
        raise RuntimeError("the broker refused the subscriber")
    sock.sendall(_packet(0x82, struct.pack("!H", 1) + b"".join(_string(f) + b"\0" for f in filters)))
    return sock


def percentile(values: list[float], share: float) -> float:
    return values[min(len(values) - 1, int(len(values) * share))]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--broker-port", type=int, required=True)
    parser.add_argument("--username", default="")
    parser.add_argument("--password-file", default="")
    parser.add_argument("--filter", required=True)
    parser.add_argument("--frames", type=int, required=True)
    parser.add_argument("--timeout", type=float, default=5.0)
    parser.add_argument("--latency", action="store_true")
    args = parser.parse_args()
    password = Path(args.password_file).read_text().strip() if args.password_file else ""
    sock = connect(args.broker_port, args.username, password, [args.filter])
    sock.recv(65536)  # SUBACK and what was retained
    print(json.dumps({"ready": True}), flush=True)
    sock.settimeout(args.timeout)
    count, first, last, tail = 0, 0.0, 0.0, b""
    latencies: list[float] = []
    while count < args.frames:
        try:
            data = sock.recv(1 << 20)
        except TimeoutError:
            break
        if not data:
            break
        now = time.monotonic_ns()
        seen = data.count(b"|")
        if seen:
            if args.latency:
                data, tail = tail + data, data[-32:]
                cut = data.rfind(b"|")
                tail = data[cut + 1 :]
                latencies += [(now - int(m)) / 1e6 for m in STAMPS.findall(data[: cut + 1])]
            count += seen
            last = now / 1e9
            first = first or last
    latencies.sort()
    out: dict[str, float] = {"frames": count, "seconds": last - first}
    if latencies:
        out |= {
            "p50_ms": statistics.median(latencies),
            "p99_ms": percentile(latencies, 0.99),
        }
    print(json.dumps(out), flush=True)


if __name__ == "__main__":
    main()
