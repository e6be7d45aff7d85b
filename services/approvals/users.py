"""Who may decide with a token: the first operator, and those whom the broker service tells of. Pure.

A viewer decides nothing, and a device with its own topic (`devices`). Who was told of is in the store, so
that a start needs nobody: the broker's list comes again as a fact whenever it starts, and when it changes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime

from bus import messages as m
from bus import topics as t
from bus.effects import Publish
from services.approvals.model import Approval, Approver
from services.approvals.tokens import Tokens

OPERATOR = Approver("operator")
_MAY_DECIDE = frozenset({"approver", "operator"})


def approvers(users: Iterable[m.BusUser]) -> list[Approver]:
    """The first operator, and each user who may decide."""
    return [
        OPERATOR,
        *(
            Approver(user.user, user.max_level or "low", user.since)
            for user in users
            if user.role in _MAY_DECIDE and user.user != OPERATOR.user
        ),
    ]


def token(tokens: Tokens, a: Approval, approver: Approver) -> Publish:
    payload = m.ApprovalToken(id=a.id, token=tokens.issue(approver.user, *claims(a, approver)))
    return Publish(t.APPROVAL_TOKEN, payload, {"id": a.id, "user": approver.user})


def no_token(a: Approval, user: str) -> Publish:
    return Publish(t.APPROVAL_TOKEN, None, {"id": a.id, "user": user})


def changed(
    tokens: Tokens,
    pending: Iterable[Approval],
    before: Mapping[str, Approver],
    after: Mapping[str, Approver],
) -> list[Publish]:
    """Tokens for those who have come, and no more for those who have gone."""
    gone = [user for user in before if user not in after]
    come = [approver for user, approver in after.items() if before.get(user) != approver]
    said = []
    for a in pending:
        said += [no_token(a, user) for user in gone]
        said += [token(tokens, a, approver) for approver in come]
    return said


def who(tokens: Tokens, given: str, a: Approval, among: Iterable[Approver]) -> Approver | None:
    """Whose token for this approval it is. Takes the same time whoever it is."""
    found = None
    for approver in among:
        if tokens.who(given, [approver.user], *claims(a, approver)) is not None:
            found = approver
    return found


def claims(a: Approval, approver: Approver) -> list[str | datetime | None]:
    """What a token is for. ``since`` makes it void for the next user of the same name."""
    own = [approver.since] if approver.since else []
    return [a.id, a.uid, a.input_sha256, a.expires_at, *own]
