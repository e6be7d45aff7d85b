"""`python -m services.bridge <session dir>`."""

import sys

from services.bridge.shell import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
