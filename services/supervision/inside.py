"""What supervisord loads of ours (``result_handler=`` in supervisord.conf) while it reads its configuration.

Loading it says where the logs go (`logfiles`): that is known by now to a stack, by its POINTSMAN_HOME or
configuration, and cannot stand in a supervisord.conf that two of them share. A configuration that no service
could start with ends supervisord, before it starts any: the mistake is told once.
"""

from __future__ import annotations

import os
import sys

from services._process.config import load_config
from services._process.errors import ConfigError, HomeError
from services._process.home import Home
from services.supervision import logfiles
from services.supervision.handler import Handler

EXIT_CONFIG = 2  # as the services' own


def _home() -> Home:
    home = Home(load_config(os.environ).node.home)
    if not os.access(home.logs, os.W_OK | os.X_OK):
        raise HomeError(f"{home.logs} cannot be written into: make it yours, or set POINTSMAN_HOME elsewhere")
    return home


try:
    logfiles.install(_home())
except ConfigError as error:
    for line in str(error).splitlines():
        sys.stderr.write(f"supervisord: {line}\n")
    sys.exit(EXIT_CONFIG)

handle = Handler()
