"""`python -m services.broker`."""

from services._process.run import run_service
from services.broker.shell import serve

if __name__ == "__main__":
    run_service("broker", serve)
