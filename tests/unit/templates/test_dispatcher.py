"""The thread between Triton and the engine's process: who is answered what, and when it ends."""

from __future__ import annotations

import queue
import threading
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from tests.stand_ins.scripted_process import DEADLINE_S, ScriptedProcess
from tests.template_modules import template_module

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

dispatcher_module = template_module("dispatcher")
generation_module = template_module("generation")
outbox_module = template_module("outbox")
reader_module = template_module("request_reader")


class Sender:
    """Where Triton's response sender stands; keeps what is sent."""

    def __init__(self) -> None:
        self.gone = threading.Event()
        self._responses: queue.Queue[tuple[Any, bool]] = queue.Queue()

    def send(self, response: Any = None, flags: int = 0) -> None:
        self._responses.put((response, bool(flags)))

    def is_cancelled(self) -> bool:
        return self.gone.is_set()

    def next(self) -> tuple[list[int] | str, bool]:
        """Return the ids or the error of the next response, and whether it is the last."""
        response, is_last = self._responses.get(timeout=DEADLINE_S)
        if response.error is not None:
            return response.error.message(), is_last
        tensors = {tensor.name(): tensor.as_numpy() for tensor in response.output_tensors()}
        length = int(tensors["sequence_length"][0, 0])
        return tensors["output_ids"][0, 0, :length].tolist(), is_last

    def rest(self) -> list[int]:
        """Return the ids of all responses up to the last; how they are joined is no matter."""
        ids: list[int] = []
        while True:
            more, is_last = self.next()
            assert not isinstance(more, str), more
            ids += more
            if is_last:
                return ids

    def has_more(self) -> bool:
        return not self._responses.empty()


class Tally:
    """Keeps what the metrics are told."""

    def __init__(self) -> None:
        self.figures: list[Any] = []
        self.counted: list[dict[str, int]] = []

    def update(self, figures: Any) -> None:
        self.figures.append(figures)

    def count(self, **tokens: int) -> None:
        self.counted.append(tokens)


class Desk:
    """A dispatcher over a scripted process."""

    def __init__(self, max_open: int | None) -> None:
        self.process = ScriptedProcess()
        self.tally = Tally()
        self.dispatcher = dispatcher_module.Dispatcher(
            self.process,
            outbox_module.UnjoinedOutbox(),
            max_open=max_open,
            cancellation_check_period_s=0.0,
            metrics=self.tally,
        )

    def submit(
        self,
        *,
        request_id: str = "",
        rows: int = 1,
        streaming: bool = True,
        deadline: float | None = None,
    ) -> tuple[Sender, list[int]]:
        """Submit a request; return where its answer goes and the keys of its rows."""
        generations = [
            generation_module.Generation(
                prompt_ids=np.array([1, 2, 3]),
                max_tokens=50,
                sampling=generation_module.Sampling(),
                end_id=-1,
                stop_words=(),
                want_log_probs=False,
            )
            for _ in range(rows)
        ]
        order = reader_module.Order(
            request_id=request_id,
            generations=generations,
            streaming=streaming,
            deadline=deadline,
            exclude_input=True,
            want_input_count=False,
            want_output_count=False,
            want_perf=False,
        )
        sender = Sender()
        self.dispatcher.submit(order, sender)
        return sender, [self.process.started.get(timeout=DEADLINE_S).key for _ in range(rows)]


@pytest.fixture
def open_desk() -> Iterator[Callable[..., Desk]]:
    desks = []

    def make(max_open: int | None = None) -> Desk:
        desks.append(Desk(max_open))
        return desks[-1]

    yield make
    for desk in desks:
        desk.dispatcher.close()
        assert not desk.dispatcher._thread.is_alive()


def chunk(*ids: int, is_final: bool = False, **changes: Any) -> Any:
    return generation_module.Chunk(0, list(ids), [], 0.0, is_final=is_final, **changes)


def test_chunks_go_to_the_request_they_are_of(open_desk: Callable[..., Desk]) -> None:
    desk = open_desk()
    (first, (one,)), (second, (two,)) = desk.submit(), desk.submit()
    desk.process.bring((two, chunk(21)), (one, chunk(11)))
    desk.process.bring((one, chunk(12, is_final=True)), (two, chunk(22, is_final=True)))
    assert (first.rest(), second.rest()) == ([11, 12], [21, 22])


def test_answer_that_is_not_streamed_comes_as_one(open_desk: Callable[..., Desk]) -> None:
    desk = open_desk()
    sender, (key,) = desk.submit(streaming=False)
    desk.process.bring((key, chunk(11)))
    desk.process.bring((key, chunk(12, is_final=True)))
    assert sender.next() == ([11, 12], True)


def test_request_ends_with_its_last_row(open_desk: Callable[..., Desk]) -> None:
    desk = open_desk()
    sender, (one, two) = desk.submit(rows=2)
    desk.process.bring((two, chunk(21, is_final=True)))
    desk.process.bring((one, chunk(11, is_final=True)))
    assert [sender.next(), sender.next()] == [([21], False), ([11], True)]


def test_stop_ends_every_request_of_an_id_with_what_it_has(
    open_desk: Callable[..., Desk],
) -> None:
    desk = open_desk()
    stopped, (one,) = desk.submit(request_id="mine", streaming=False)
    also, (two,) = desk.submit(request_id="mine")
    other, (three,) = desk.submit(request_id="other")
    desk.process.bring((one, chunk(11)), (two, chunk(21)))
    assert also.next() == ([21], False)
    desk.dispatcher.stop("mine")
    assert stopped.next() == ([11], True)
    assert also.next() == ([], True)
    assert {desk.process.stopped.get(timeout=DEADLINE_S) for _ in range(2)} == {one, two}
    desk.process.bring((one, chunk(12)), (three, chunk(31, is_final=True)))
    assert other.next() == ([31], True)
    assert not stopped.has_more()


def test_stop_of_an_unknown_id_is_no_error(open_desk: Callable[..., Desk]) -> None:
    desk = open_desk()
    desk.dispatcher.stop("nobody")
    sender, (key,) = desk.submit()
    desk.process.bring((key, chunk(11, is_final=True)))
    assert sender.next() == ([11], True)


def test_client_that_has_gone_frees_the_engine(open_desk: Callable[..., Desk]) -> None:
    desk = open_desk()
    sender, (key,) = desk.submit()
    sender.gone.set()
    assert desk.process.stopped.get(timeout=DEADLINE_S) == key
    assert sender.next() == ([], True)


def test_late_request_ends_with_an_error(open_desk: Callable[..., Desk]) -> None:
    desk = open_desk()
    sender, (key,) = desk.submit(deadline=time.monotonic())
    assert sender.next() == ("the request's timeout passed", True)
    assert desk.process.stopped.get(timeout=DEADLINE_S) == key


def test_error_of_one_row_ends_the_request_and_its_other_rows(
    open_desk: Callable[..., Desk],
) -> None:
    desk = open_desk()
    sender, (one, two) = desk.submit(rows=2)
    desk.process.bring((one, chunk(is_final=True, error="too long")))
    assert sender.next() == ("too long", True)
    assert desk.process.stopped.get(timeout=DEADLINE_S) == two


def test_full_queue_refuses_with_both_numbers(open_desk: Callable[..., Desk]) -> None:
    desk = open_desk(max_open=2)
    _, (one,) = desk.submit()
    desk.submit()
    with pytest.raises(RuntimeError, match="2 prompts run or wait, the model takes at most 2"):
        desk.submit()
    desk.process.bring((one, chunk(11, is_final=True)), figures=None)
    until(lambda: len(desk.dispatcher._open) == 1)
    desk.submit()


def test_engine_that_dies_is_replaced_and_its_requests_fail(
    open_desk: Callable[..., Desk],
) -> None:
    desk = open_desk()
    lost, _ = desk.submit()
    desk.process.die()
    assert lost.next() == ("the engine's process ended with signal 9", True)
    assert desk.process.restarts == 1
    sender, (key,) = desk.submit()
    desk.process.bring((key, chunk(11, is_final=True)))
    assert sender.next() == ([11], True)


def test_engine_that_cannot_be_replaced_refuses_with_the_reason(
    open_desk: Callable[..., Desk],
) -> None:
    desk = open_desk()
    desk.process.restart_error = RuntimeError("openvino_model.bin is gone")
    lost, _ = desk.submit()
    desk.process.die()
    lost.next()
    with pytest.raises(RuntimeError, match=r"openvino_model\.bin is gone"):
        desk.submit()


def test_close_ends_what_is_open(open_desk: Callable[..., Desk]) -> None:
    desk = open_desk()
    sender, _ = desk.submit()
    desk.dispatcher.close()
    assert sender.next() == ("the model is being unloaded", True)


def test_metrics_get_the_figures_and_the_tokens_of_what_has_finished(
    open_desk: Callable[..., Desk],
) -> None:
    desk = open_desk()
    sender, (key,) = desk.submit()
    figures = (7, 1, 0, 0, 12.5, 4096)
    desk.process.bring((key, chunk(11, is_final=True, account=(1, 2, 3, 4, 2))), figures=figures)
    sender.next()
    until(lambda: bool(desk.tally.counted))
    assert desk.tally.figures == [figures]
    assert desk.tally.counted == [{"prompt": 3, "generated": 4, "accepted_draft": 2}]


def until(holds: Callable[[], bool]) -> None:
    """Wait for something that another thread does."""
    deadline = time.monotonic() + DEADLINE_S
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.001)
