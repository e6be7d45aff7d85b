"""Tokens prove one user, one approval, one input, one expiry, and fit a command line."""

from __future__ import annotations

import hmac
import re
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bus.errors import MisuseError
from services.approvals.mac import Mac
from services.approvals.tokens import KEY_BYTES, Tokens

AT = datetime(2026, 11, 21, 12, tzinfo=UTC)
CLAIMS: tuple[str | datetime | None, ...] = ("a1", "uid", "00ff", AT)
USERS = ("ada", "operator")


def test_only_the_same_claims_prove_the_user() -> None:
    tokens = Tokens([b"k" * 32])
    token = tokens.issue("operator", *CLAIMS)
    assert tokens.who(token, USERS, *CLAIMS) == "operator"
    assert tokens.who(token, ["ada"], *CLAIMS) is None
    for place, other in enumerate(["a2", "uid2", "00fe", None]):
        changed = [*CLAIMS[:place], other, *CLAIMS[place + 1 :]]
        assert tokens.who(token, USERS, *changed) is None
    assert tokens.who("ada" + token.removeprefix("operator"), USERS, *CLAIMS) is None
    assert Tokens([b"x" * 32]).who(token, USERS, *CLAIMS) is None


def test_claims_do_not_run_into_each_other() -> None:
    tokens = Tokens([b"k" * 32])
    assert tokens.who(tokens.issue("ada", "a1", "b", "c", None), USERS, "a1b", "", "c", None) is None


@pytest.mark.parametrize(
    "token", ["", "operator", "operator.", "\ud800", "é", "operator." + "A" * 43, "\0" * 10]
)
def test_rubbish_proves_nobody(token: str) -> None:
    assert Tokens([b"k" * 32]).who(token, USERS, *CLAIMS) is None


def test_the_text_fits_a_topic_a_url_and_a_shell() -> None:
    assert re.fullmatch(r"operator\.[A-Za-z0-9_-]{43}", Tokens([b"k" * 32]).issue("operator", *CLAIMS))


def test_a_new_key_signs_and_the_old_one_still_proves() -> None:
    old, both = Tokens([b"k" * 32]), Tokens([b"n" * 32, b"k" * 32])
    assert both.who(old.issue("ada", *CLAIMS), USERS, *CLAIMS) == "ada"
    assert both.issue("ada", *CLAIMS) != old.issue("ada", *CLAIMS)


@pytest.mark.parametrize("keys", [[], [b""], [b"k" * 31]])
def test_a_weak_key_is_a_bug(keys: list[bytes]) -> None:
    with pytest.raises(MisuseError):
        Tokens(keys)


@given(st.binary(min_size=KEY_BYTES, max_size=200), st.lists(st.binary(max_size=200), min_size=2, max_size=5))
def test_a_signature_is_hmac_sha256_whatever_was_signed_before(key: bytes, messages: list[bytes]) -> None:
    mac = Mac(key)
    for message in messages:
        assert mac.of(message) == hmac.digest(key, message, "sha256")
