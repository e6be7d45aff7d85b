"""The real ingest service with another joining time: ``python -m benchmarks.ingest MILLISECONDS``."""

from __future__ import annotations

import sys

from services._process.context import Context
from services._process.run import run_service
from services.ingest.shell import Shell


async def serve(context: Context) -> None:
    await Shell(context, join_s=float(sys.argv[1]) / 1000).run()


if __name__ == "__main__":
    run_service("ingest", serve)
