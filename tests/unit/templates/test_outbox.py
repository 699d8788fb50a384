"""The outbox between the engine and Triton: what waits, what is joined, what goes at once."""

from __future__ import annotations

from typing import Any

import pytest

from tests.template_modules import template_module

outbox_module = template_module("outbox")
generation = template_module("generation")


class Clock:
    """Time that passes only when told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class EverySecond:
    """A pace of one second, whatever there is to send."""

    def interval_s(self, _streams: int) -> float:
        return 1.0


def chunk(*ids: int, is_final: bool = False, error: str | None = None) -> Any:
    return generation.Chunk(0, list(ids), [], 0.0, is_final=is_final, error=error)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def outbox(clock: Clock) -> Any:
    return outbox_module.Outbox(EverySecond(), clock)


def begun(outbox: Any, key: int) -> int:
    """Let a stream have sent its first chunk."""
    outbox.put(key, chunk(0))
    assert outbox.take()[0] == key
    return key


def sent(outbox: Any) -> list[tuple[int, list[int]]]:
    """Take all that is due."""
    items = iter(outbox.take, None)
    return [(key, taken.ids) for key, taken in items]


def test_first_chunk_goes_at_once(outbox: Any) -> None:
    outbox.put(1, chunk(11))
    assert sent(outbox) == [(1, [11])]


def test_later_chunks_wait_for_the_tick_and_are_joined(outbox: Any, clock: Clock) -> None:
    key = begun(outbox, 1)
    outbox.put(key, chunk(12))
    clock.now += 0.9
    outbox.put(key, chunk(13))
    assert sent(outbox) == []
    clock.now += 0.1
    assert sent(outbox) == [(key, [12, 13])]


def test_last_chunk_takes_with_it_what_waits(outbox: Any) -> None:
    key = begun(outbox, 1)
    outbox.put(key, chunk(12))
    outbox.put(key, chunk(13, is_final=True))
    assert sent(outbox) == [(key, [12, 13])]


def test_failure_takes_the_place_of_what_waits(outbox: Any) -> None:
    key = begun(outbox, 1)
    outbox.put(key, chunk(12))
    outbox.put(key, chunk(is_final=True, error="lost"))
    ((_, taken),) = iter(outbox.take, None)
    assert (taken.ids, taken.error) == ([], "lost")


def test_one_streams_end_leaves_the_others_waiting(outbox: Any) -> None:
    ending, going_on = begun(outbox, 1), begun(outbox, 2)
    outbox.put(ending, chunk(12, is_final=True))
    outbox.put(going_on, chunk(22))
    assert sent(outbox) == [(ending, [12])]


def test_all_streams_are_due_at_the_same_tick(outbox: Any, clock: Clock) -> None:
    first, second = begun(outbox, 1), begun(outbox, 2)
    outbox.put(first, chunk(12))
    clock.now += 0.5
    outbox.put(second, chunk(22))
    assert outbox.wait_s(10) == pytest.approx(0.5)
    clock.now += 0.5
    assert sent(outbox) == [(first, [12]), (second, [22])]


def test_key_that_is_used_again_begins_anew(outbox: Any) -> None:
    key = begun(outbox, 1)
    outbox.put(key, chunk(is_final=True))
    sent(outbox)
    outbox.put(key, chunk(11))
    assert sent(outbox) == [(key, [11])]


def test_removed_stream_gives_what_waited_and_sends_nothing(outbox: Any, clock: Clock) -> None:
    key = begun(outbox, 1)
    outbox.put(key, chunk(12))
    assert outbox.remove(key).ids == [12]
    assert outbox.remove(key) is None
    clock.now += 2
    assert sent(outbox) == []


def test_nothing_to_send_waits_as_long_as_it_may(outbox: Any) -> None:
    assert outbox.wait_s(0.1) == 0.1


def test_more_streams_are_sent_less_often_up_to_the_bound() -> None:
    pace = outbox_module.Pace(0.1, cores=2, engine_threads=1)
    few, many, most = (pace.interval_s(streams) for streams in (1, 64, 10_000))
    assert few < many < most == 0.1


def test_free_cores_let_streams_be_sent_more_often() -> None:
    shared = outbox_module.Pace(1.0, cores=2, engine_threads=2)
    roomy = outbox_module.Pace(1.0, cores=16, engine_threads=2)
    assert roomy.interval_s(64) < shared.interval_s(64)


def test_unjoined_outbox_sends_each_chunk_by_itself() -> None:
    outbox = outbox_module.UnjoinedOutbox()
    outbox.put(1, chunk(11))
    outbox.put(2, chunk(21))
    outbox.put(1, chunk(12))
    assert outbox.wait_s(10) == 0.0
    assert sent(outbox) == [(1, [11]), (2, [21]), (1, [12])]
    assert outbox.wait_s(10) == 10


def test_unjoined_outbox_drops_a_removed_stream_alone() -> None:
    outbox = outbox_module.UnjoinedOutbox()
    outbox.put(1, chunk(11))
    outbox.put(2, chunk(21))
    assert outbox.remove(1) is None
    assert sent(outbox) == [(2, [21])]
