"""The outbox between the engine loop and Triton: what waits, what goes at once, what fails."""

from __future__ import annotations

from typing import Any

import pytest

from tests.template_modules import template_module

answers = template_module("answers")
generation = template_module("generation")


class RecordingAnswer:
    """An answer that keeps the ids it was given, or fails to send them."""

    def __init__(self, *, is_broken: bool = False) -> None:
        self.has_started = False
        self.sent: list[list[int]] = []
        self.failures: list[str] = []
        self._is_broken = is_broken

    def take(self, _row: int, chunk: Any) -> None:
        self.has_started = True
        if self._is_broken:
            message = "the client is gone"
            raise RuntimeError(message)
        self.sent.append(list(chunk.ids))

    def fail(self, message: str) -> None:
        self.failures.append(message)


def chunk(*ids: int, is_final: bool = False) -> Any:
    return generation.Chunk(0, list(ids), [], 0.0, is_final=is_final)


@pytest.fixture
def outbox() -> Any:
    """An outbox whose interval never passes by itself."""
    box = answers.Outbox(interval_s=1000.0)
    box.flush()
    return box


def started(box: Any) -> RecordingAnswer:
    answer = RecordingAnswer()
    box.put(answer, 0, chunk(1))
    box.flush()
    return answer


def test_a_first_chunk_goes_at_once(outbox: Any) -> None:
    assert started(outbox).sent == [[1]]


def test_later_chunks_wait_and_are_joined_with_the_last(outbox: Any) -> None:
    answer = started(outbox)
    for ids in ([2], [3]):
        outbox.put(answer, 0, chunk(*ids))
        outbox.flush()
    assert answer.sent == [[1]]
    outbox.put(answer, 0, chunk(4, is_final=True))
    outbox.flush()
    assert answer.sent == [[1], [2, 3, 4]]


def test_one_streams_end_leaves_the_others_waiting(outbox: Any) -> None:
    ending, going_on = started(outbox), started(outbox)
    outbox.put(ending, 0, chunk(2, is_final=True))
    outbox.put(going_on, 0, chunk(3))
    outbox.flush()
    assert (ending.sent, going_on.sent) == ([[1], [2]], [[1]])


def test_an_answer_that_cannot_be_sent_fails_alone(outbox: Any) -> None:
    broken, sound = RecordingAnswer(is_broken=True), RecordingAnswer()
    outbox.put(broken, 0, chunk(1))
    outbox.put(sound, 0, chunk(2))
    outbox.flush()
    assert broken.failures == ["the client is gone"]
    assert sound.sent == [[2]]
