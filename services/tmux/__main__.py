"""`python -m services.tmux`."""

from services._process.run import run_service
from services.tmux.shell import serve

if __name__ == "__main__":
    run_service("tmux", serve)
