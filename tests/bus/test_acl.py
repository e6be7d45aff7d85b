"""Each user may do on a real mosquitto what the table of topics says, row by row, and nothing else.

What is expected is worked out here a second time, plainly, from the table's words.
"""

from __future__ import annotations

import itertools
import subprocess
from collections.abc import Iterator
from pathlib import Path

import paho.mqtt.client as mqtt
import pytest
import trio
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode

from bus import topics as t
from bus.acl import Role, User, acl_file, check_digest, digest_passwords, mosquitto_hash, read_digests, rights
from bus.client import MqttBus
from bus.errors import BusDownError
from bus.topics import TABLE, Kind, Topic
from services import SERVICES
from tests.support.brokers import EVERYBODY, NODE, ROOT, RunningBroker, mosquitto_broker
from tests.support.connections import connected
from tests.support.waiting import eventually

WITNESS = User("witness", Role.VIEWER)
PREFIX = f"{ROOT}/{NODE}/"
CHAIN = {
    "viewer": {"viewer"},
    "approver": {"viewer", "approver"},
    "operator": {"viewer", "approver", "operator"},
}
USERS = [*EVERYBODY, User("operator", Role.OPERATOR)] + [User(f"service-{s}", Role.SERVICE) for s in SERVICES]


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningBroker]:
    """mosquitto with our rules, and a witness who may everything."""
    directory = tmp_path_factory.mktemp("acl")
    with mosquitto_broker(directory, [*EVERYBODY, WITNESS]) as running:
        running.kill()
        with (directory / "mosquitto.acl").open("a") as file:
            file.write("\nuser witness\ntopic readwrite #\n")
        running.start()
        yield running


class Eavesdropper(MqttBus):
    """Subscribes to everything, and notes which topics it is given."""

    heard: set[str]

    def all_ears(self) -> None:
        self.heard = set()
        self._router.add(f"{ROOT}/#", 1)
        self._send_subscribe([(f"{ROOT}/#", 1)])

    def _incoming(self, topic: str, payload: bytes, retained: bool) -> None:
        if payload:  # not what clears the traces of the test before
            self.heard.add(topic)

    def say(self, row: Topic, topic: str, payload: bytes = b"x") -> None:
        """Send whatever our own checks would say to it."""
        self._out.put(row, topic, payload)
        self._wake()


def client(broker: RunningBroker, username: str) -> Eavesdropper:
    return Eavesdropper(broker.address(username), root=ROOT, node=NODE)


def spellings(row: Topic, name: str) -> list[dict[str, str]]:
    """Topics of a row that name the user itself, and others."""
    choices = [
        ["week"] if p == "period" else ["x_y"] if p in {"type", "verb"} else [name, "somebody-else"]
        for p in row.parameters
    ]
    return [dict(zip(row.parameters, values, strict=True)) for values in itertools.product(*choices)]


def expected(user: User, row: Topic, values: dict[str, str], *, write: bool) -> bool:
    """What the table's words say."""
    actors = row.writers if write else row.readers
    if user.role is Role.DEVICE:
        return "device" in actors and values.get("device") == user.name
    if user.role is not Role.SERVICE:
        return bool(CHAIN[user.role] & actors) and values.get("user", user.name) == user.name
    if row is t.FACTS:
        return values["producer" if write else "owner"] == user.name
    if row is t.ACKS:
        return values["owner" if write else "producer"] == user.name
    mine = values.get("self", user.name) == user.name
    writes = bool({user.name, "services"} & row.writers) and mine
    if write:
        return writes
    return (bool({user.name, "services"} & row.readers) and "user" not in values) or (
        row.kind is Kind.SNAPSHOT and writes
    )


@pytest.mark.parametrize("user", USERS, ids=lambda user: user.username)
def test_a_user_hears_and_says_what_the_table_says_in_every_row(broker: RunningBroker, user: User) -> None:
    topics = [(row, values, row.path(**values)) for row in TABLE for values in spellings(row, user.name)]
    last = next(
        (row, PREFIX + path)
        for row, values, path in topics
        if row.qos and expected(user, row, values, write=False)
    )

    async def main() -> tuple[set[str], set[str]]:
        async with (
            connected(client(broker, user.username)) as one,
            connected(client(broker, "witness")) as two,
        ):
            for bus in (one, two):
                bus.all_ears()
                await bus.subscriptions_stand()
            for row, _, path in topics:
                one.say(row, PREFIX + path)
            await one.drained()
            two.say(t.REPLIES, PREFIX + "replies/end")
            await eventually(lambda: PREFIX + "replies/end" in two.heard)
            said = two.heard - {PREFIX + "replies/end"}
            one.heard.clear()
            for row, _, path in topics:
                two.say(row, PREFIX + path)
            await two.drained()
            heard = one.heard.copy()
            one.heard.clear()
            two.say(*last)  # what was to come has come before it
            await eventually(lambda: last[1] in one.heard)
            heard |= one.heard
            for row, _, path in topics:
                if row.retain:
                    two.say(row, PREFIX + path, b"")
            await two.drained()
            return said, heard

    said, heard = trio.run(main)
    wrong = [
        ("says" if write else "hears", path, "should" if right else "should not")
        for row, values, path in topics
        for write, found in ((True, PREFIX + path in said), (False, PREFIX + path in heard))
        if found != (right := expected(user, row, values, write=write))
    ]
    assert wrong == []


@pytest.mark.parametrize("username", ["viewer", "operator", "service-ingest"])
@pytest.mark.parametrize("topic", ["#", "pointsman/other/info", "$SYS/broker/clients/total", "home/lamp"])
def test_nobody_hears_or_says_anything_beside_the_table(
    broker: RunningBroker, username: str, topic: str
) -> None:
    name = topic.replace("#", "anything/at/all")
    listening = subprocess.Popen(
        [*outside("mosquitto_sub", broker, username), "-t", topic, "-W", "1", "-F", "%t"],
        stdout=subprocess.PIPE,
    )
    subprocess.run([*outside("mosquitto_pub", broker, username), "-t", name, "-m", "x"], check=True)
    if not name.startswith("$"):
        subprocess.run([*outside("mosquitto_pub", broker, "witness"), "-t", name, "-m", "x"], check=True)
    heard, _ = listening.communicate(timeout=60)
    table = {line for line in heard.decode().split() if t.find(line.removeprefix(PREFIX)) is None}
    assert table == set()


def test_a_last_will_says_nothing_that_its_user_may_not_say(broker: RunningBroker) -> None:
    decision, allowed = "approvals/x/decision", "services/ingest/status"

    async def main() -> None:
        async with connected(client(broker, "witness")) as witness:
            witness.all_ears()
            await witness.subscriptions_stand()
            for username, topic in (("viewer", decision), ("service-ingest", allowed)):
                await trio.to_thread.run_sync(dies, broker, username, PREFIX + topic)
            await eventually(lambda: PREFIX + allowed in witness.heard)  # the later will of the two
            assert PREFIX + decision not in witness.heard

    trio.run(main)


def dies(broker: RunningBroker, username: str, topic: str) -> None:
    """A client with a last will whose connection breaks once the broker has let it in."""
    one = mqtt.Client(CallbackAPIVersion.VERSION2)
    one.username_pw_set(username, broker.passwords[username])
    one.will_set(topic, "x", qos=1)
    one.connect(broker.host, broker.port)
    while not one.is_connected():
        assert one.loop(1.0) is MQTTErrorCode.MQTT_ERR_SUCCESS
    open_ = one.socket()
    assert open_ is not None
    open_.close()


def test_client_ids_cannot_be_guessed(broker: RunningBroker) -> None:
    """Who comes with another's id takes its place: a viewer could keep a service off the bus."""

    async def main() -> set[str]:
        ids = set()
        for _ in range(3):
            async with connected(client(broker, "service-ingest")) as bus:
                assert bus._client is not None
                ids.add(bus._client._client_id.decode().rpartition("-")[2])
        return ids

    ids = trio.run(main)
    assert len(ids) == 3
    assert {len(bytes.fromhex(one)) for one in ids} == {6}


def outside(program: str, broker: RunningBroker, username: str, password: str | None = None) -> list[str]:
    word = broker.passwords[username] if password is None else password
    return [program, "-h", broker.host, "-p", str(broker.port), "-u", username, "-P", word]


@pytest.mark.parametrize(
    ("username", "password"), [("stranger", "x"), ("operator", "wrong"), ("operator", ""), ("", "")]
)
def test_a_stranger_is_not_let_in(broker: RunningBroker, username: str, password: str) -> None:
    done = subprocess.run(
        [*outside("mosquitto_pub", broker, username, password), "-t", "x", "-m", "x"],
        capture_output=True,
        check=False,
    )
    assert done.returncode != 0

    async def main() -> None:
        bus = MqttBus(broker.address(username, password), root=ROOT, node=NODE)
        said = "password is wrong" if username else "set bus.username and bus.password_file"
        with pytest.raises(BusDownError, match=said):
            async with connected(bus):
                pass

    trio.run(main)


def test_the_rules_never_use_a_multi_level_wildcard(tmp_path: Path) -> None:
    text = acl_file(ROOT, NODE, USERS)
    assert "#" not in "\n".join(line for line in text.splitlines() if not line.startswith("# "))
    assert {line.split()[-1].split("/")[0] for line in text.splitlines() if line.startswith("topic")} == {
        ROOT
    }


def test_a_name_that_may_not_stand_in_a_topic_is_refused() -> None:
    for name in ("a/b", "+", "#", "a b", "a\ntopic readwrite #", ""):
        with pytest.raises(ValueError, match="user name"):
            acl_file(ROOT, NODE, [User(name, Role.OPERATOR)])


def test_a_device_is_confined_to_its_own_topics() -> None:
    given = rights(User("button", Role.DEVICE))
    assert given.read == ("devices/button/pending", "devices/button/reply")
    assert given.write == ("devices/button/approve", "devices/button/deny")
    service = rights(User("service-approvals", Role.SERVICE), (t.DEVICE_PENDING, t.DEVICE_APPROVE))
    assert service.read == ("devices/+/approve",)
    assert service.write == ("devices/+/pending",)


def test_password_hashes() -> None:
    known = mosquitto_hash("secret", b"0123456789ab")
    assert known.startswith("$7$101$MDEyMzQ1Njc4OWFi$")
    assert known == mosquitto_hash("secret", b"0123456789ab") != mosquitto_hash("secret")
    digests = read_digests(digest_passwords({"operator": "secret", "viewer": "other"}))
    assert check_digest(digests, "operator", "secret")
    for username, password in (
        ("operator", "other"), ("operator", ""), ("operator", None),
        ("nobody", "secret"), (None, None), ("", ""),
    ):  # fmt: skip
        assert not check_digest(digests, username, password)
    nobody = read_digests(digest_passwords({"viewer": ""}))
    assert not check_digest(nobody, "viewer", "")  # an empty password lets nobody in
