"""The figures are for programs: no web page reads them."""

from __future__ import annotations

import http.client
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from services._process.config import load_config
from services._process.home import Home
from services._process.metrics import start_metrics_server


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"Host": "localhost:9184"}, 200),
        ({"Host": "[::1]:9184"}, 200),
        ({"Host": "evil.example:9184"}, 403),  # a name that was rebound to this machine
        ({"Host": "127.0.0.1.evil.example"}, 403),
        ({"Origin": "https://evil.example"}, 403),
        ({"Origin": "null"}, 403),
    ],
)
def test_who_may_read(tmp_path: Path, headers: dict[str, str], status: int) -> None:
    home = Home(tmp_path / "home")
    port = start_metrics_server(load_config({"HOME": str(tmp_path)}), home, "ledger", CollectorRegistry())
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request("GET", "/metrics", headers=headers)
    assert connection.getresponse().status == status
    connection.close()
