"""The rules of one queue, apart from any socket or clock."""

import random
from collections.abc import Callable

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from consumer.sandbox.protocol import MnsError
from consumer.sandbox.queue import DlqPolicy, Message, Queue, QueueAttributes, State

NOW = 1_700_000_000_000


def make_queue(attributes: QueueAttributes | None = None, *, lenient: bool = False, fifo: bool = False) -> Queue:
    return Queue(
        "q",
        attributes or QueueAttributes(),
        created_ms=NOW,
        chance=random.Random(1),  # noqa: S311 - handles that a test can repeat
        lenient_handles=lenient,
        fifo=fifo,
    )


def handle_of(message: Message) -> str:
    assert message.handle is not None
    return message.handle


def refused(act: Callable[[], object]) -> str:
    with pytest.raises(MnsError) as caught:
        act()
    return caught.value.code


def test_a_received_message_is_hidden_until_its_time() -> None:
    """A received message comes again exactly when its visibility timeout is over, counted up."""
    queue = make_queue(QueueAttributes(visibility_timeout_s=30))
    queue.send(Message("a"), NOW)
    (first,) = queue.receive(16, NOW + 5)
    assert (first.dequeue_count, first.first_dequeue_ms, first.visible_ms) == (1, NOW + 5, NOW + 30_005)
    assert queue.receive(16, NOW + 30_004) == []
    (again,) = queue.receive(16, NOW + 30_005)
    assert (again.message_id, again.dequeue_count) == (first.message_id, 2)
    assert again.first_dequeue_ms == NOW + 5


@pytest.mark.parametrize("priorities", [(8, 1, 16, 1)], ids=["mixed"])
def test_priority_then_age(priorities: tuple[int, ...]) -> None:
    """Priority 1 goes first, and within a priority the older one."""
    queue = make_queue()
    for number, priority in enumerate(priorities):
        queue.send(Message(f"{number}", priority), NOW)
    assert [message.body for message in queue.receive(16, NOW)] == ["1", "3", "0", "2"]


def test_a_delayed_message_waits_and_can_be_deleted_by_its_handle() -> None:
    """A delayed message is invisible until due, and the handle of its sending works until then."""
    queue = make_queue()
    message = queue.send(Message("a", delay_s=10), NOW)
    gone = queue.send(Message("b", delay_s=10), NOW)
    assert queue.counts[State.DELAYED] == 2
    queue.delete(handle_of(gone), NOW + 1)
    assert queue.receive(16, NOW + 9_999) == []
    assert queue.receive(16, NOW + 10_000) == [message]


def test_the_queue_s_own_delay_holds_where_the_message_has_none() -> None:
    """DelaySeconds of the queue applies to a message without its own, and 0 overrides it."""
    queue = make_queue(QueueAttributes(delay_s=5))
    queue.send(Message("late"), NOW)
    queue.send(Message("now", delay_s=0), NOW)
    assert [message.body for message in queue.receive(16, NOW)] == ["now"]


def test_a_handle_dies_when_replaced_expired_or_used() -> None:
    """Only the newest handle works, until its time is over; a malformed one has an error of its own."""
    queue = make_queue()
    queue.send(Message("a"), NOW)
    (message,) = queue.receive(1, NOW)
    first = handle_of(message)
    second = handle_of(queue.change_visibility(first, 60, NOW))
    assert refused(lambda: queue.delete(first, NOW)) == "MessageNotExist"
    assert refused(lambda: queue.change_visibility(first, 60, NOW)) == "MessageNotExist"
    assert refused(lambda: queue.delete(second, NOW + 60_000)) == "MessageNotExist"
    queue.delete(second, NOW + 59_999)
    assert refused(lambda: queue.delete(second, NOW)) == "MessageNotExist"
    assert refused(lambda: queue.delete("nonsense", NOW)) == "ReceiptHandleError"
    assert len(queue) == 0


def test_lenient_handles_live_as_long_as_their_message() -> None:
    """With lenient handles a replaced and an expired handle still work, until the message is deleted."""
    queue = make_queue(lenient=True)
    queue.send(Message("a"), NOW)
    (message,) = queue.receive(1, NOW)
    first = handle_of(message)
    queue.change_visibility(first, 60, NOW)
    assert queue.change_visibility(first, 1, NOW).visible_ms == NOW + 1_000
    queue.delete(first, NOW + 100_000)
    assert refused(lambda: queue.delete(first, NOW)) == "MessageNotExist"
    assert queue.receive(1, NOW + 200_000) == []


def test_hiding_counts_from_the_call() -> None:
    """ChangeMessageVisibility counts from the call, shorter as well as longer."""
    queue = make_queue(QueueAttributes(visibility_timeout_s=30))
    queue.send(Message("a"), NOW)
    (message,) = queue.receive(1, NOW)
    queue.change_visibility(handle_of(message), 1, NOW + 100)
    assert queue.receive(1, NOW + 1_099) == []
    assert len(queue.receive(1, NOW + 1_100)) == 1


def test_retention_drops_silently() -> None:
    """A message older than the retention is gone, whether visible, hidden or delayed."""
    queue = make_queue(QueueAttributes(retention_s=60, visibility_timeout_s=3600))
    queue.send(Message("visible"), NOW)
    queue.send(Message("hidden", priority=1), NOW)
    queue.send(Message("delayed", delay_s=3600), NOW)
    (hidden,) = queue.receive(1, NOW)
    assert queue.peek(16, NOW + 60_000) == []
    assert refused(lambda: queue.delete(handle_of(hidden), NOW + 60_000)) == "MessageNotExist"
    queue.sweep(NOW + 60_000)
    assert (len(queue), sum(queue.counts[:4])) == (0, 0)


def test_retention_is_kept_by_timers_too() -> None:
    """A hidden message whose time comes after its retention never becomes visible again."""
    queue = make_queue(QueueAttributes(retention_s=60, visibility_timeout_s=90))
    queue.send(Message("a"), NOW)
    queue.receive(1, NOW)
    queue.promote(NOW + 90_000)
    assert len(queue) == 0


def test_peek_changes_nothing() -> None:
    """Peeking twice shows the same, counts nothing and leaves everything receivable."""
    queue = make_queue()
    for body in "abc":
        queue.send(Message(body), NOW)
    assert [message.body for message in queue.peek(2, NOW)] == ["a", "b"]
    assert [message.body for message in queue.peek(2, NOW)] == ["a", "b"]
    assert [message.dequeue_count for message in queue.receive(16, NOW)] == [1, 1, 1]


def test_body_limit_is_in_bytes() -> None:
    """MaximumMessageSize counts bytes, not characters."""
    queue = make_queue(QueueAttributes(maximum_message_bytes=1024))
    queue.send(Message("x" * 1024), NOW)
    assert refused(lambda: queue.send(Message("x" * 1025), NOW)) == "InvalidArgument"
    assert refused(lambda: queue.send(Message("副" * 342), NOW)) == "InvalidArgument"


def test_fifo_holds_a_group_back_while_one_is_out() -> None:
    """While one message of a group is out its later ones are held; other groups go on."""
    queue = make_queue(fifo=True)
    for body, group in (("a1", "a"), ("a2", "a"), ("b1", "b"), ("a3", "a")):
        queue.send(Message(body, group_id=group), NOW)
    out = queue.receive(16, NOW)
    assert [message.body for message in out] == ["a1", "b1"]
    assert queue.receive(16, NOW) == []
    queue.delete(handle_of(out[0]), NOW)
    assert [message.body for message in queue.receive(16, NOW)] == ["a2"]
    again = queue.receive(16, NOW + 30_000)
    assert sorted(message.body for message in again) == ["a2", "b1"]


def test_fifo_needs_a_group_and_survives_holes() -> None:
    """A FIFO queue refuses a message without a group, and a held message can be deleted out of line."""
    queue = make_queue(fifo=True)
    assert refused(lambda: queue.send(Message("x"), NOW)) == "InvalidArgument"
    queue.send(Message("1", group_id="g"), NOW)
    held = queue.send(Message("2", delay_s=5, group_id="g"), NOW)
    queue.send(Message("3", delay_s=5, group_id="g"), NOW)
    queue.delete(handle_of(held), NOW)
    (first,) = queue.receive(16, NOW)
    queue.delete(handle_of(first), NOW + 1)
    assert queue.receive(16, NOW + 1) == []
    assert [message.body for message in queue.receive(16, NOW + 5_000)] == ["3"]


@pytest.mark.parametrize("is_set_late", [False, True], ids=["from the start", "while it is visible"])
def test_dead_letters(is_set_late: bool) -> None:  # noqa: FBT001 - a parametrized case
    """A message received often enough is handed to the dead-letter side instead of becoming visible."""
    queue = make_queue(QueueAttributes(visibility_timeout_s=1))
    dead: list[Message] = []
    queue.on_dead_letter = dead.append
    policy = DlqPolicy(dead_letter_target_queue="dead", max_receive_count=2)
    queue.dlq = None if is_set_late else policy
    queue.send(Message("a"), NOW)
    queue.receive(1, NOW)
    queue.receive(1, NOW + 1_000)
    if is_set_late:
        queue.promote(NOW + 2_000)
        queue.dlq = policy
    assert queue.receive(1, NOW + 2_000) == []
    assert [message.body for message in dead] == ["a"]
    assert len(queue) == 0


def test_revoke_makes_visible_at_once_and_kills_the_handle() -> None:
    """A revoked lease is lost: its handle is dead and the message receivable."""
    queue = make_queue()
    queue.send(Message("a"), NOW)
    (message,) = queue.receive(1, NOW)
    handle = handle_of(message)
    queue.revoke(message)
    queue.revoke(message)
    assert refused(lambda: queue.change_visibility(handle, 10, NOW)) == "MessageNotExist"
    assert len(queue.receive(16, NOW)) == 1


def test_duplicate_delivers_the_same_message_under_two_handles() -> None:
    """A duplicated message is out twice at once; deleting one leaves the other."""
    queue = make_queue()
    queue.send(Message("a"), NOW)
    (one,) = queue.receive(1, NOW)
    queue.duplicate(one)
    (two,) = queue.receive(16, NOW)
    assert (one.message_id, one.enqueue_ms, one.dequeue_count) == (two.message_id, two.enqueue_ms, two.dequeue_count)
    assert one.handle != two.handle
    queue.delete(handle_of(one), NOW)
    queue.delete(handle_of(two), NOW)


def test_stale_heap_entries_do_not_pile_up() -> None:
    """A lease renewed 20,000 times leaves no 20,000 timers behind."""
    queue = make_queue()
    queue.send(Message("a"), NOW)
    (message,) = queue.receive(1, NOW)
    for step in range(20_000):
        queue.change_visibility(handle_of(message), 40_000, NOW + step)
    assert len(queue._timers) < 3_000
    assert queue.next_due_ms() == NOW + 19_999 + 40_000_000


class QueueModel(RuleBasedStateMachine):
    """The queue against a list that is searched from end to end."""

    def __init__(self) -> None:
        super().__init__()
        self.now = NOW
        self.queue = make_queue(QueueAttributes(visibility_timeout_s=5, retention_s=60))
        self.model: dict[str, dict[str, int | str | None]] = {}
        self.dead_handles: list[str] = []
        self.sent = 0

    def visible(self) -> list[str]:
        """Bodies that a receive may hand out, in its order."""
        there = [(row["priority"], row["seq"], name) for name, row in self.model.items() if self.is_visible(row)]
        return [str(name) for _, _, name in sorted(there)]

    def is_visible(self, row: dict[str, int | str | None]) -> bool:
        """Whether a row is due and not past its retention."""
        return int(row["visible"] or 0) <= self.now < int(row["enqueue"] or 0) + 60_000

    def forget(self) -> None:
        """Drop what is past its retention."""
        for name in [name for name, row in self.model.items() if int(row["enqueue"] or 0) + 60_000 <= self.now]:
            handle = self.model.pop(name)["handle"]
            if handle is not None:
                self.dead_handles.append(str(handle))

    @rule(priority=st.integers(1, 16), delay_s=st.sampled_from([0, 0, 1, 7]))
    def send(self, priority: int, delay_s: int) -> None:
        """Send one."""
        self.sent += 1
        message = self.queue.send(Message(f"{self.sent}", priority, delay_s), self.now)
        self.model[message.body] = {
            "priority": priority,
            "seq": self.sent,
            "enqueue": self.now,
            "visible": self.now + delay_s * 1000,
            "handle": message.handle,
            "count": 0,
        }

    @rule(limit=st.integers(1, 16))
    def receive(self, limit: int) -> None:
        """Receive exactly what the list says, in its order."""
        expected = self.visible()[:limit]
        got = self.queue.receive(limit, self.now)
        assert [message.body for message in got] == expected
        for message in got:
            row = self.model[message.body]
            if row["handle"] is not None:
                self.dead_handles.append(str(row["handle"]))
            row.update(handle=message.handle, visible=self.now + 5_000, count=int(row["count"] or 0) + 1)
            assert message.dequeue_count == row["count"]

    def leased(self) -> list[tuple[str, str]]:
        """Bodies and handles of the messages whose handle still works."""
        return [(name, str(row["handle"])) for name, row in self.model.items() if int(row["visible"] or 0) > self.now]

    @rule(data=st.data())
    def delete(self, data: st.DataObject) -> None:
        """Delete by a valid handle."""
        self.forget()
        if self.leased():
            name, handle = data.draw(st.sampled_from(self.leased()))
            self.queue.delete(handle, self.now)
            del self.model[name]
            self.dead_handles.append(handle)

    @rule(data=st.data(), hide_s=st.integers(1, 20))
    def hide(self, data: st.DataObject, hide_s: int) -> None:
        """Hide by a valid handle."""
        self.forget()
        if self.leased():
            name, handle = data.draw(st.sampled_from(self.leased()))
            message = self.queue.change_visibility(handle, hide_s, self.now)
            self.model[name].update(handle=message.handle, visible=self.now + hide_s * 1000)
            self.dead_handles.append(handle)

    @rule(data=st.data())
    def use_a_dead_handle(self, data: st.DataObject) -> None:
        """A dead handle never works again."""
        self.forget()
        if self.dead_handles:
            handle = data.draw(st.sampled_from(self.dead_handles))
            assert refused(lambda: self.queue.delete(handle, self.now)) == "MessageNotExist"

    @rule(wait_ms=st.sampled_from([1, 999, 1_000, 5_000, 20_000]))
    def wait(self, wait_ms: int) -> None:
        """Let time pass."""
        self.now += wait_ms
        self.forget()

    @invariant()
    def counts_agree(self) -> None:
        """Totals by state are those of the list."""
        self.forget()
        self.queue.sweep(self.now)
        assert len(self.queue) == len(self.model)
        assert self.queue.counts[State.ACTIVE] == len(self.visible())
        assert self.queue.counts[State.INACTIVE] + self.queue.counts[State.DELAYED] == len(self.model) - len(
            self.visible()
        )


TestQueueModel = QueueModel.TestCase
TestQueueModel.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
