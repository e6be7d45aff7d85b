"""``python -m services.approvals``."""

from services._process.run import run_service
from services.approvals.shell import serve

run_service("approvals", serve)
