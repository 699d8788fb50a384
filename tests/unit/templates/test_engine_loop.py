from __future__ import annotations

import itertools
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

    _keys = itertools.count(1)

    def __init__(self, **changes: Any) -> None:
        self.chunks: queue.Queue[Any] = queue.Queue()
        values: dict[str, Any] = {
            "key": next(self._keys),
            "prompt_ids": np.array([1, 2, 3]),
            "max_tokens": 50,
            "sampling": generation_module.Sampling(),
            "end_id": -1,
            "stop_words": (),
            "want_log_probs": False,
        }
        self.generation = generation_module.Generation(**{**values, **changes})

    def next(self) -> Any:
        return self.chunks.get(timeout=DEADLINE_S)

    def rest(self) -> list[Any]:
        """Receive everything up to the final chunk, which has to be the last."""
        chunks = [self.next()]
        while not chunks[-1].is_final:
            chunks.append(self.next())
        return chunks

    def ids(self) -> list[int]:
        return [id_ for chunk in self.rest() for id_ in chunk.ids]

    def has_more(self) -> bool:
        return not self.chunks.empty()


class RunningLoop:
    """A loop in a thread of its own, and the clients whose generations it was given."""

    def __init__(self, engine: ScriptedEngine) -> None:
        self._engine = engine
        self._inbox: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._clients: dict[int, Client] = {}
        self.loop = engine_loop.EngineLoop(
            engine, self._inbox, emit=self._emit, after_step=lambda: None
        )
        self._thread = threading.Thread(target=self.loop.run, daemon=True)
        self._thread.start()

    def submit(self, *clients: Client) -> None:
        for client in clients:
            self._clients[client.generation.key] = client
            self._inbox.put(client.generation)

    def stop(self, client: Client) -> None:
        self._inbox.put(client.generation.key)

    def close(self) -> None:
        self._inbox.put(None)
        self._thread.join(DEADLINE_S)
        assert not self._thread.is_alive()

    def _emit(self, generation: Any, chunk: Any) -> None:
        self._clients[generation.key].chunks.put(chunk)


@pytest.fixture
def start() -> Iterator[Callable[..., RunningLoop]]:
    """Give a function that starts a loop over an engine; every loop is closed in the end."""
    started = []

    def start_loop(engine: ScriptedEngine) -> RunningLoop:
        started.append((RunningLoop(engine), engine))
        return started[-1][0]

    yield start_loop
    for loop, engine in started:
        if engine._steps is not None:
            engine.allow(1000)
        loop.close()


def test_tokens_come_one_step_at_a_time_and_the_last_is_final(
    start: Callable[..., RunningLoop],
) -> None:
    loop, client = start(ScriptedEngine([[11, 12, 13]])), Client()
    loop.submit(client)
    chunks = client.rest()
    assert [(chunk.ids, chunk.is_final, chunk.error) for chunk in chunks] == [
        ([11], False, None),
        ([12], False, None),
        ([13], True, None),
    ]
    assert not client.has_more()


def test_request_joins_the_running_batch_and_is_served_before_the_first_ends(
    start: Callable[..., RunningLoop],
) -> None:
    engine = ScriptedEngine([range(11, 17), [21, 22]], gated=True)
    loop, first, second = start(engine), Client(), Client()
    loop.submit(first)
    engine.allow(1)
    assert first.next().ids == [11]
    loop.submit(second)
    engine.allow(2)
    assert second.next().ids == [21]
    engine.allow(20)
    assert second.ids() == [22]
    assert first.ids() == [12, 13, 14, 15, 16]
    assert max(engine.batch_sizes) == 2


def test_request_that_ends_leaves_and_the_others_get_all_their_tokens(
    start: Callable[..., RunningLoop],
) -> None:
    engine = ScriptedEngine([[11], range(21, 30)])
    loop, short, long = start(engine), Client(), Client()
    loop.submit(short)
    loop.submit(long)
    assert short.ids() == [11]
    assert long.ids() == list(range(21, 30))


def test_request_that_is_stopped_gets_no_more_and_takes_no_token_from_its_neighbours(
    start: Callable[..., RunningLoop],
) -> None:
    engine = ScriptedEngine([range(11, 40), range(21, 26)], gated=True)
    loop, ended, other = start(engine), Client(), Client()
    loop.submit(ended, other)
    engine.allow(2)
    assert [ended.next().ids, ended.next().ids] == [[11], [12]]
    loop.stop(ended)
    engine.allow(100)
    assert other.ids() == [21, 22, 23, 24, 25]
    # A third step may have begun before the stop was seen.
    assert ended.chunks.qsize() <= 1


def test_stop_of_the_only_request_lets_the_pipeline_drop_it(
    start: Callable[..., RunningLoop],
) -> None:
    engine = ScriptedEngine([range(99), [21]], gated=True)
    loop, ended, after = start(engine), Client(max_tokens=90), Client()
    loop.submit(ended)
    engine.allow(1)
    assert ended.next().ids == [0]
    loop.stop(ended)
    engine.allow(1000)
    loop.submit(after)
    assert after.ids() == [21]


def test_stop_of_an_unknown_key_is_no_error(start: Callable[..., RunningLoop]) -> None:
    loop, client = start(ScriptedEngine([[11]])), Client()
    loop.stop(Client())
    loop.submit(client)
    assert client.ids() == [11]


def test_request_that_waits_can_be_stopped(start: Callable[..., RunningLoop]) -> None:
    engine = ScriptedEngine([[11, 12, 13], [31]], gated=True)
    engine.max_batch_size = 1
    loop, running, stopped, last = start(engine), Client(), Client(), Client()
    loop.submit(running, stopped, last)
    loop.stop(stopped)
    engine.allow(1000)
    assert running.ids() == [11, 12, 13]
    assert last.ids() == [31]
    assert not stopped.has_more()


def test_requests_beyond_the_batch_wait_and_start_in_the_order_they_came(
    start: Callable[..., RunningLoop],
) -> None:
    engine = ScriptedEngine([[i, i] for i in range(5)])
    engine.max_batch_size = 2
    loop, clients = start(engine), [Client() for _ in range(5)]
    loop.submit(*clients)
    assert [client.ids() for client in clients] == [[i, i] for i in range(5)]
    assert max(engine.batch_sizes) == 2
    assert list(engine.handles) == [client.generation.key for client in clients]


def test_request_of_more_sequences_than_the_batch_runs_alone(
    start: Callable[..., RunningLoop],
) -> None:
    engine = ScriptedEngine([[11], [21]])
    engine.max_batch_size = 2
    sampling = generation_module.Sampling(top_k=5, num_return_sequences=3)
    loop, small, large = start(engine), Client(), Client(sampling=sampling)
    loop.submit(small, large)
    assert (small.ids(), large.ids()) == ([11], [21])
    assert max(engine.batch_sizes) == 1


def test_outputs_of_several_steps_are_all_delivered(start: Callable[..., RunningLoop]) -> None:
    engine = ScriptedEngine([range(11, 18)])
    engine.inner_steps = 3
    loop, client = start(engine), Client()
    loop.submit(client)
    assert client.ids() == list(range(11, 18))


def test_end_id_is_left_out_with_its_log_prob(start: Callable[..., RunningLoop]) -> None:
    loop = start(ScriptedEngine([[11, 5, 99]]))
    client = Client(end_id=5, want_log_probs=True)
    loop.submit(client)
    chunks = client.rest()
    assert [(chunk.ids, chunk.log_probs) for chunk in chunks] == [([11], [-0.5]), ([], [])]
    assert not client.has_more()


def test_any_end_id_of_the_checkpoint_ends_and_is_left_out(
    start: Callable[..., RunningLoop],
) -> None:
    loop, client = start(ScriptedEngine([[11, END_ID, 12]])), Client(end_id=5)
    loop.submit(client)
    assert client.ids() == [11]


def test_without_an_end_id_the_checkpoints_own_is_a_token_like_any(
    start: Callable[..., RunningLoop],
) -> None:
    loop, client = start(ScriptedEngine([[11, END_ID, 12]])), Client(end_id=-1)
    loop.submit(client)
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
    start: Callable[..., RunningLoop], script: list[Any], words: Any, ids: list[int]
) -> None:
    engine = ScriptedEngine([script, [21, 22]])
    loop, client, other = start(engine), Client(stop_words=words), Client()
    loop.submit(client)
    loop.submit(other)
    assert client.ids() == ids
    assert other.ids() == [21, 22]
    assert not client.has_more()


def test_output_is_cut_to_what_the_sequence_length_leaves(
    start: Callable[..., RunningLoop],
) -> None:
    engine = ScriptedEngine([range(11, 60)])
    engine.max_seq_len = 5
    loop, client = start(engine), Client()
    loop.submit(client)
    assert client.ids() == [11, 12]


def test_refused_request_gets_the_reason_and_never_starts(
    start: Callable[..., RunningLoop],
) -> None:
    engine = ScriptedEngine([])
    loop, client = start(engine), Client()
    engine.refusals[client.generation.key] = "the prompt has 9 tokens, the engine takes at most 8"
    loop.submit(client)
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
    start: Callable[..., RunningLoop], error: Exception, message: str
) -> None:
    engine = ScriptedEngine([[11, 12]])
    loop, bad, good = start(engine), Client(), Client()
    engine.start_error = error
    loop.submit(bad)
    assert [chunk.error for chunk in bad.rest()] == [message]
    engine.start_error = None
    loop.submit(good)
    assert good.ids() == [11, 12]


def test_failed_step_fails_what_runs_and_the_loop_goes_on(
    start: Callable[..., RunningLoop],
) -> None:
    engine = ScriptedEngine([range(11, 20), range(11, 20), [21]], gated=True)
    loop, clients, after = start(engine), [Client(), Client()], Client()
    loop.submit(*clients)
    engine.allow(1)
    assert clients[0].next().ids == [11]
    engine.step_errors.append(RuntimeError("out of memory"))
    engine.allow(1000)
    assert [client.rest()[-1].error for client in clients] == ["out of memory"] * 2
    loop.submit(after)
    assert after.ids() == [21]


def test_failed_step_after_a_stop_does_not_end_the_loop(
    start: Callable[..., RunningLoop],
) -> None:
    engine = ScriptedEngine([range(11, 20), [21]], gated=True)
    loop, client, after = start(engine), Client(), Client()
    loop.submit(client)
    engine.allow(1)
    assert client.next().ids == [11]
    loop.stop(client)
    engine.step_errors.append(RuntimeError("out of memory"))
    engine.allow(1000)
    loop.submit(after)
    assert after.ids() == [21]


def test_request_the_kv_cache_lost_ends_with_an_error(start: Callable[..., RunningLoop]) -> None:
    loop, client = start(ScriptedEngine([[]])), Client()
    loop.submit(client)
    assert [chunk.error for chunk in client.rest()] == [
        "the KV cache could not hold the request any longer"
    ]


def test_several_sequences_come_best_first_and_end_together(
    start: Callable[..., RunningLoop],
) -> None:
    length = GenerationFinishReason.LENGTH
    final = {3: Output([11, 12], length, score=-2.0), 9: Output([21], length, score=-1.0)}
    loop, client = start(ScriptedEngine([[final]])), Client()
    loop.submit(client)
    chunks = [client.next(), client.next()]
    assert [(c.sequence, c.ids, c.cum_log_prob, c.is_final) for c in chunks] == [
        (0, [21], -1.0, False),
        (1, [11, 12], -2.0, True),
    ]


def test_close_ends_everything_that_runs_or_waits(start: Callable[..., RunningLoop]) -> None:
    engine = ScriptedEngine([range(99), range(99)], gated=True)
    loop, running, waiting = start(engine), Client(), Client()
    loop.submit(running)
    engine.allow(1)
    assert running.next().ids == [0]
    loop.submit(waiting)
    closing = threading.Thread(target=loop.close)
    closing.start()
    engine.allow(1000)
    closing.join(DEADLINE_S)
    assert not closing.is_alive()
    assert [client.rest()[-1].error for client in (running, waiting)] == [
        "the model is being unloaded"
    ] * 2


def test_last_chunk_accounts_for_times_and_tokens(start: Callable[..., RunningLoop]) -> None:
    loop, client = start(ScriptedEngine([[11, 12]])), Client()
    before_ns = time.monotonic_ns()
    loop.submit(client)
    first, last = client.rest()
    assert first.account is None
    *times, tokens, accepted = last.account
    in_order = [before_ns, *times, time.monotonic_ns()]
    assert in_order == sorted(in_order)
    assert (tokens, accepted) == (2, 0)


def test_tokens_beyond_one_a_step_are_counted_as_drafted(start: Callable[..., RunningLoop]) -> None:
    loop, client = start(ScriptedEngine([[11, [12, 13, 14], [15, 16]]])), Client()
    loop.submit(client)
    last = client.rest()[-1]
    assert last.account[-2:] == (6, 3)
