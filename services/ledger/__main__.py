"""``python -m services.ledger``."""

from services._process.run import run_service
from services.ledger.shell import serve

run_service("ledger", serve)
