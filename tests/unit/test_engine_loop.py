from __future__ import annotations

import queue
import threading
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from tests.stand_ins.scripted_engine import (
    DEADLINE_S,
    END_ID,
    GenerationFinishReason,
    Output,
    ScriptedEngine,
)
from tests.template_modules import template_module

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

engine_loop = template_module("engine_loop")
generation_module = template_module("generation")


class Client:
    """Submits one generation and receives its chunks."""

    def __init__(self, request_id: str = "", **changes: Any) -> None:
        self._chunks: queue.Queue[Any] = queue.Queue()
        values: dict[str, Any] = {
            "request_id": request_id,
            "prompt_ids": np.array([1, 2, 3]),
            "max_tokens": 50,
            "sampling": generation_module.Sampling(),
            "end_id": -1,
            "stop_words": (),
            "streaming": True,
            "want_log_probs": False,
            "deadline": None,
            "is_cancelled": lambda: False,
            "sink": self._chunks.put,
        }
        self.generation = generation_module.Generation(**{**values, **changes})

    def next(self) -> Any:
        return self._chunks.get(timeout=DEADLINE_S)

    def rest(self) -> list[Any]:
        """Receive everything up to the final chunk, which has to be the last."""
        chunks = [self.next()]
        while not chunks[-1].is_final:
            chunks.append(self.next())
        return chunks

    def ids(self) -> list[int]:
        return [id_ for chunk in self.rest() for id_ in chunk.ids]

    def has_more(self) -> bool:
        return not self._chunks.empty()


@pytest.fixture
def start() -> Iterator[Callable[..., Any]]:
    """Give a function that starts a loop over an engine; every loop is closed in the end."""
    started = []

    def start_loop(engine: ScriptedEngine, after_step: Any = lambda: None) -> Any:
        loop = engine_loop.EngineLoop(engine, cancellation_check_period_s=0, after_step=after_step)
        started.append((loop, engine))
        return loop

    yield start_loop
    for loop, engine in started:
        if engine._steps is not None:
            engine.allow(1000)
        loop.close()
        assert not loop._thread.is_alive()


def test_tokens_come_one_step_at_a_time_and_the_last_is_final(start: Callable[..., Any]) -> None:
    loop, client = start(ScriptedEngine([[11, 12, 13]])), Client()
    loop.submit(client.generation)
    chunks = client.rest()
    assert [(chunk.ids, chunk.is_final, chunk.error) for chunk in chunks] == [
        ([11], False, None),
        ([12], False, None),
        ([13], True, None),
    ]
    assert not client.has_more()


def test_request_joins_the_running_batch_and_is_served_before_the_first_ends(
    start: Callable[..., Any],
) -> None:
    engine = ScriptedEngine([range(11, 17), [21, 22]], gated=True)
    loop, first, second = start(engine), Client(), Client()
    loop.submit(first.generation)
    engine.allow(1)
    assert first.next().ids == [11]
    loop.submit(second.generation)
    engine.allow(2)
    assert second.next().ids == [21]
    engine.allow(20)
    assert second.ids() == [22]
    assert first.ids() == [12, 13, 14, 15, 16]
    assert max(engine.batch_sizes) == 2


def test_request_that_ends_leaves_and_the_others_get_all_their_tokens(
    start: Callable[..., Any],
) -> None:
    engine = ScriptedEngine([[11], range(21, 30)])
    loop, short, long = start(engine), Client(), Client()
    loop.submit(short.generation)
    loop.submit(long.generation)
    assert short.ids() == [11]
    assert long.ids() == list(range(21, 30))


@pytest.mark.parametrize("way", ["stop", "cancel", "deadline"])
def test_request_that_is_ended_early_takes_no_token_from_its_neighbours(
    start: Callable[..., Any], way: str
) -> None:
    gone = threading.Event()
    engine = ScriptedEngine([range(11, 40), range(21, 26)], gated=True)
    loop = start(engine)
    ended = Client("mine", is_cancelled=gone.is_set)
    other = Client("other")
    loop.submit(ended.generation)
    loop.submit(other.generation)
    engine.allow(2)
    assert ended.next().ids == [11]
    if way == "stop":
        loop.stop("mine")
    elif way == "cancel":
        gone.set()
    else:
        ended.generation.deadline = time.monotonic()
    engine.allow(100)
    last = ended.rest()[-1]
    assert (last.ids, last.error) == (
        [],
        "the request's timeout passed" if way == "deadline" else None,
    )
    assert other.ids() == [21, 22, 23, 24, 25]
    assert not ended.has_more()


def test_stop_ends_every_generation_of_an_id(start: Callable[..., Any]) -> None:
    engine = ScriptedEngine([range(99), range(99), [21]], gated=True)
    loop = start(engine)
    rows = [Client("mine", max_tokens=90), Client("mine", max_tokens=90)]
    for row in rows:
        loop.submit(row.generation)
    engine.allow(1)
    assert [row.next().ids for row in rows] == [[0], [0]]
    loop.stop("mine")
    engine.allow(1000)
    assert [row.rest()[-1].is_final for row in rows] == [True, True]
    after = Client()
    loop.submit(after.generation)
    assert after.ids() == [21]


def test_stop_of_an_unknown_id_is_no_error(start: Callable[..., Any]) -> None:
    loop, client = start(ScriptedEngine([[11]])), Client("mine")
    loop.stop("nobody")
    loop.submit(client.generation)
    assert client.ids() == [11]


def test_outputs_of_several_steps_are_all_delivered(start: Callable[..., Any]) -> None:
    engine = ScriptedEngine([range(11, 18)])
    engine.inner_steps = 3
    loop, client = start(engine), Client()
    loop.submit(client.generation)
    assert client.ids() == list(range(11, 18))


def test_end_id_is_left_out_with_its_log_prob(start: Callable[..., Any]) -> None:
    loop = start(ScriptedEngine([[11, 5, 99]]))
    client = Client(end_id=5, want_log_probs=True)
    loop.submit(client.generation)
    chunks = client.rest()
    assert [(chunk.ids, chunk.log_probs) for chunk in chunks] == [([11], [-0.5]), ([], [])]
    assert not client.has_more()


def test_any_end_id_of_the_checkpoint_ends_and_is_left_out(start: Callable[..., Any]) -> None:
    loop, client = start(ScriptedEngine([[11, END_ID, 12]])), Client(end_id=5)
    loop.submit(client.generation)
    assert client.ids() == [11]


def test_without_an_end_id_the_checkpoints_own_is_a_token_like_any(
    start: Callable[..., Any],
) -> None:
    loop, client = start(ScriptedEngine([[11, END_ID, 12]])), Client(end_id=-1)
    loop.submit(client.generation)
    assert client.ids() == [11, END_ID, 12]


@pytest.mark.parametrize(
    ("script", "words", "ids"),
    [
        ([4, 5, 6, 7], ((5, 6),), [4, 5, 6]),
        ([4, 5, 4, 5, 6, 7], ((5, 6), (9,)), [4, 5, 4, 5, 6]),
        ([5, 5, 6], ((5, 5), (5, 6)), [5, 5]),
        ([[4, 5], [6, 7], 8], ((5, 6),), [4, 5, 6]),
        ([[4, 5, 6, 7], 8], ((5, 6),), [4, 5, 6]),
        ([4, 5, 6], ((6, 5),), [4, 5, 6]),
    ],
    ids=["over-steps", "begun-twice", "first-wins", "over-chunks", "inside-chunk", "absent"],
)
def test_stop_word_ends_the_generation_and_is_part_of_it(
    start: Callable[..., Any], script: list[Any], words: Any, ids: list[int]
) -> None:
    engine = ScriptedEngine([script, [21, 22]])
    loop, client, other = start(engine), Client(stop_words=words), Client()
    loop.submit(client.generation)
    loop.submit(other.generation)
    assert client.ids() == ids
    assert other.ids() == [21, 22]
    assert not client.has_more()


def test_output_is_cut_to_what_the_sequence_length_leaves(start: Callable[..., Any]) -> None:
    engine = ScriptedEngine([range(11, 60)])
    engine.max_seq_len = 5
    loop, client = start(engine), Client()
    loop.submit(client.generation)
    assert client.ids() == [11, 12]


def test_refused_request_gets_the_reason_and_never_starts(start: Callable[..., Any]) -> None:
    engine = ScriptedEngine([])
    engine.refusals["big"] = "the prompt has 9 tokens, the engine takes at most 8"
    loop, client = start(engine), Client("big")
    loop.submit(client.generation)
    (chunk,) = client.rest()
    assert chunk.error == "the prompt has 9 tokens, the engine takes at most 8"
    assert engine.handles == {}


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (
            RuntimeError("Exception from src/x.cpp:7:\n\ntop_p must be below 1\n"),
            "top_p must be below 1",
        ),
        (KeyError(), "KeyError"),
        (ValueError("bad"), "bad"),
    ],
    ids=["source-lines", "no-text", "text"],
)
def test_request_the_library_refuses_fails_alone(
    start: Callable[..., Any], error: Exception, message: str
) -> None:
    engine = ScriptedEngine([[11, 12]])
    loop, bad, good = start(engine), Client(), Client()
    engine.start_error = error
    loop.submit(bad.generation)
    assert [chunk.error for chunk in bad.rest()] == [message]
    engine.start_error = None
    loop.submit(good.generation)
    assert good.ids() == [11, 12]


def test_failed_step_fails_what_runs_and_the_loop_goes_on(start: Callable[..., Any]) -> None:
    engine = ScriptedEngine([range(11, 20), range(11, 20), [21]], gated=True)
    loop, clients, after = start(engine), [Client(), Client()], Client()
    for client in clients:
        loop.submit(client.generation)
    engine.allow(1)
    assert clients[0].next().ids == [11]
    engine.step_errors.append(RuntimeError("out of memory"))
    engine.allow(1000)
    assert [client.rest()[-1].error for client in clients] == ["out of memory"] * 2
    loop.submit(after.generation)
    assert after.ids() == [21]


def test_failed_step_after_a_stop_does_not_end_the_loop(start: Callable[..., Any]) -> None:
    engine = ScriptedEngine([range(11, 20), [21]], gated=True)
    loop, client, after = start(engine), Client("mine"), Client()
    loop.submit(client.generation)
    engine.allow(1)
    assert client.next().ids == [11]
    loop.stop("mine")
    engine.step_errors.append(RuntimeError("out of memory"))
    engine.allow(1000)
    assert client.rest()[-1].is_final
    loop.submit(after.generation)
    assert after.ids() == [21]


def test_answer_that_cannot_be_sent_does_not_end_the_loop(start: Callable[..., Any]) -> None:
    errors = [RuntimeError("the client has gone")]

    def send() -> None:
        if errors:
            raise errors.pop()

    loop, client, after = start(ScriptedEngine([range(9), [21]]), send), Client(), Client()
    loop.submit(client.generation)
    assert client.rest()[-1].error == "the client has gone"
    loop.submit(after.generation)
    assert after.ids() == [21]


def test_request_the_kv_cache_lost_ends_with_an_error(start: Callable[..., Any]) -> None:
    loop, client = start(ScriptedEngine([[]])), Client()
    loop.submit(client.generation)
    assert [chunk.error for chunk in client.rest()] == [
        "the KV cache could not hold the request any longer"
    ]


def test_several_sequences_come_best_first_and_end_together(start: Callable[..., Any]) -> None:
    length = GenerationFinishReason.LENGTH
    final = {3: Output([11, 12], length, score=-2.0), 9: Output([21], length, score=-1.0)}
    loop, client = start(ScriptedEngine([[final]])), Client(streaming=False)
    loop.submit(client.generation)
    chunks = [client.next(), client.next()]
    assert [(c.sequence, c.ids, c.cum_log_prob, c.is_final) for c in chunks] == [
        (0, [21], -1.0, False),
        (1, [11, 12], -2.0, True),
    ]


def test_close_ends_everything_that_runs_or_waits(start: Callable[..., Any]) -> None:
    engine = ScriptedEngine([range(99), range(99)], gated=True)
    loop, running, waiting = start(engine), Client(), Client()
    loop.submit(running.generation)
    engine.allow(1)
    assert running.next().ids == [0]
    loop.submit(waiting.generation)
    closing = threading.Thread(target=loop.close)
    closing.start()
    engine.allow(1000)
    closing.join(DEADLINE_S)
    assert not closing.is_alive()
    assert [client.rest()[-1].error for client in (running, waiting)] == [
        "the model is being unloaded"
    ] * 2


def test_times_of_a_generation_follow_each_other(start: Callable[..., Any]) -> None:
    loop, client = start(ScriptedEngine([[11, 12]])), Client()
    loop.submit(client.generation)
    client.rest()
    done = client.generation
    times = [done.arrival_ns, done.first_scheduled_ns, done.first_token_ns, done.last_token_ns]
    assert times == sorted(times)
    assert times[0] > 0
