"""Every payload that crosses the bus, as frozen types; the contract's sections 3 to 8 in code.

`from bus import messages as m` has them all; the parts have the names of the sections of `bus.topics`.

Conventions: times are aware UTC datetimes (``_at``; RFC 3339 on the wire), durations and money carry their
unit in the name (``_s``, ``_ms``, ``_usd``), memory is bytes. A field that may be absent is ``UNSET``, one
that may be empty is ``None``. In snapshots and events an enumerated value is a plain ``str``, because a
reader must keep a payload whose value it does not know; in commands it is a ``Literal``, because there an
unknown value is ``bad_request``. Unknown fields are ignored everywhere.
"""

from bus.messages.approvals import *
from bus.messages.audit import *
from bus.messages.envelope import *
from bus.messages.events import *
from bus.messages.facts import *
from bus.messages.internal import *
from bus.messages.ledger import *
from bus.messages.node import *
from bus.messages.sessions import *
from bus.messages.users import *
