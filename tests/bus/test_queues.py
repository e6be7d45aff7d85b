"""The outgoing queue keeps its stated policy whatever happens (bus/queues.py)."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from bus import topics as t
from bus.queues import Entry, OutQueue
from bus.topics import Kind, Topic

ROWS = (t.SESSION_EVENT, t.SESSION_STATE, t.APPROVAL_OUTCOME, t.SESSION_PROMPT, t.FACTS)
LIMIT = 4


def drain(queue: OutQueue) -> list[Entry]:
    taken = []
    while (entry := queue.take()) is not None:
        taken.append(entry)
    return taken


def connected(**limits: int) -> OutQueue:
    queue = OutQueue(**limits)
    queue.connected = True
    return queue


def is_bulk(row: Topic) -> bool:
    return row.kind is Kind.EVENT and row.qos == 0


def test_everything_goes_before_qos_0_events() -> None:
    queue = connected()
    queue.put(t.SESSION_EVENT, "e", b"1")
    queue.put(t.APPROVAL_DECISION, "d", b"2")
    queue.put(t.SESSION_EVENT, "e", b"3")
    queue.put(t.FACTS, "f", b"4")
    assert [entry.payload for entry in drain(queue)] == [b"2", b"4", b"1", b"3"]


def test_the_newest_snapshot_takes_the_place_of_the_one_that_waits() -> None:
    queue = OutQueue()
    for topic, payload in (("a", b"1"), ("b", b"2"), ("a", b"3")):
        assert queue.put(t.SESSION_STATE, topic, payload)
    assert [(e.topic, e.payload) for e in drain(queue)] == [("a", b"3"), ("b", b"2")]


def test_qos_0_events_are_dropped_while_disconnected_and_when_full() -> None:
    queue = OutQueue(bulk_max=2)
    assert not queue.put(t.SESSION_EVENT, "e", b"0")
    queue.connected = True
    assert [queue.put(t.SESSION_EVENT, "e", b"%d" % n) for n in range(3)] == [True, True, False]
    assert queue.dropped == {"disconnected": 1, "full": 1}
    queue.lost(())
    assert queue.dropped == {"disconnected": 3, "full": 1}
    assert drain(queue) == []


def test_qos_1_waits_for_the_connection_and_the_oldest_goes_first_beyond_the_bound() -> None:
    queue = OutQueue(first_max=2)
    for n in range(3):
        assert queue.put(t.SESSION_PROMPT, "p", b"%d" % n)
    assert queue.dropped == {"oldest": 1}
    assert [entry.payload for entry in drain(queue)] == [b"1", b"2"]


def test_bytes_are_bounded_too() -> None:
    queue = connected(bytes_max=10)
    queue.put(t.SESSION_PROMPT, "p", b"x" * 8)
    queue.put(t.SESSION_PROMPT, "p", b"y" * 8)
    assert [queue.put(t.SESSION_EVENT, "e", b"z" * 8) for _ in range(2)] == [True, False]
    assert [entry.payload[:1] for entry in drain(queue)] == [b"y", b"z"]


def test_facts_do_not_wait_for_a_connection() -> None:
    queue = OutQueue()
    assert not queue.put(t.FACTS, "f", b"1")
    queue.connected = True
    queue.put(t.FACTS, "f", b"2")
    sent = Entry(t.FACTS, "f", b"0")
    queue.lost([sent])
    assert drain(queue) == []
    assert not queue.dropped


def test_what_was_not_acknowledged_waits_again_before_everything_else() -> None:
    queue = connected()
    for n in range(4):
        queue.put(t.SESSION_PROMPT, "p", b"%d" % n)
    queue.put(t.SESSION_STATE, "s", b"state")
    sent = [entry for entry in (queue.take(), queue.take()) if entry is not None]
    queue.lost([*sent, Entry(t.SESSION_STATE, "old", b"snapshot"), Entry(t.SESSION_EVENT, "e", b"")])
    assert [entry.payload for entry in drain(queue)] == [b"0", b"1", b"2", b"3", b"state"]


class Model:
    """The policy again, slowly and plainly: lists that are searched."""

    def __init__(self) -> None:
        self.connected = False
        self.first: list[tuple[Topic, str, bytes]] = []
        self.bulk: list[tuple[Topic, str, bytes]] = []
        self.dropped = 0

    def put(self, row: Topic, topic: str, payload: bytes) -> None:
        if is_bulk(row):
            if self.connected and len(self.bulk) < LIMIT:
                self.bulk.append((row, topic, payload))
            else:
                self.dropped += 1
        elif row.kind is Kind.SNAPSHOT and any(e[0] is row and e[1] == topic for e in self.first):
            at = next(i for i, e in enumerate(self.first) if e[0] is row and e[1] == topic)
            self.first[at] = (row, topic, payload)
        elif row.kind is not Kind.FACT or self.connected:
            self.first.append((row, topic, payload))
            self.trim()

    def take(self) -> tuple[Topic, str, bytes] | None:
        return self.first.pop(0) if self.first else self.bulk.pop(0) if self.bulk else None

    def lost(self, again: list[tuple[Topic, str, bytes]]) -> None:
        self.connected = False
        self.dropped += len(self.bulk)
        self.bulk.clear()
        back = [e for e in again if e[0].qos and e[0].kind not in (Kind.SNAPSHOT, Kind.FACT)]
        self.first = back + [e for e in self.first if e[0].kind is not Kind.FACT]
        self.trim()

    def trim(self) -> None:
        while len(droppable := [e for e in self.first if e[0].kind is not Kind.SNAPSHOT]) > LIMIT:
            self.first.remove(droppable[0])
            self.dropped += 1


PUT = st.tuples(st.sampled_from(ROWS), st.sampled_from("abc"))
STEP = st.one_of(PUT, st.sampled_from(["take", "lost", "connect"]))


@given(st.lists(STEP, max_size=80))
def test_the_queue_does_as_the_plain_model_does(steps: list[tuple[Topic, str] | str]) -> None:
    queue, model = OutQueue(first_max=LIMIT, bulk_max=LIMIT), Model()
    sent: list[Entry] = []
    for number, step in enumerate(steps):
        payload = b"%d" % number
        if isinstance(step, tuple):
            queue.put(step[0], step[1], payload)
            model.put(step[0], step[1], payload)
        elif step == "take":
            entry, expected = queue.take(), model.take()
            assert (entry and (entry.row, entry.topic, entry.payload)) == expected
            sent += [entry] if entry else []
        elif step == "lost":
            queue.lost(sent)
            model.lost([(e.row, e.topic, e.payload) for e in sent])
            sent.clear()
        else:
            queue.connected = model.connected = True
        assert len(queue) == len(model.first) + len(model.bulk)
        assert sum(queue.dropped.values()) == model.dropped
    assert [(e.row, e.topic, e.payload) for e in drain(queue)] == model.first + model.bulk


def test_who_fills_the_bulk_lane_is_told_to_pause_before_anything_is_dropped() -> None:
    queue = OutQueue(bulk_max=8)
    queue.connected = True

    def high() -> bool:
        return queue.bulk_high

    topic = "pointsman/n1/sessions/s/events/delta"
    for _ in range(2):
        assert queue.put(t.SESSION_EVENT, topic, b"{}")
        assert not high()
    assert queue.put(t.SESSION_EVENT, topic, b"{}")
    assert high()
    queue.take()
    assert not high()
    assert queue.put(t.SESSION_EVENT, topic, b"{}")
    queue.lost([])
    assert not high(), "while disconnected nobody waits"
    assert not queue.dropped["full"]
