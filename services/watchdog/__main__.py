"""``python -m services.watchdog``."""

from services._process.run import run_service
from services.watchdog.shell import serve

run_service("watchdog", serve)
