"""The twin's engine in its own process: its metrics, its queue, its drafts, and its death."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from tokenizers import Tokenizer

from tests.triton.served import Served, serve
from trtllm_forge.files.resources import sample_checkpoint_dir
from trtllm_forge.machine.process.lifeline import living_members

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.twin import TwinWorkshop

pytestmark = pytest.mark.triton

IDS = [526, 901, 70, 275, 700, 626]
BATCH, QUEUE = 2, 1
EDITED = "def area(width, height):\n    size = width * height\n    return size\n\n\n"


def ask(ids: list[int], tokens: int, **inputs: Any) -> dict[str, Any]:
    return {
        "input_ids": ids,
        "input_lengths": len(ids),
        "request_output_len": tokens,
        "exclude_input_in_output": True,
        "end_id": -1,
        **inputs,
    }


@pytest.fixture(scope="module")
def narrow(workshop: TwinWorkshop) -> Iterator[Served]:
    """A twin that runs two requests at once, lets one wait, and drafts from the prompt."""
    output_dir = workshop.root / "model_repos" / "narrow"
    limits = ("--max-batch-size", str(BATCH), "--max-queue-size", str(QUEUE))
    workshop.build(
        *("--fp16", "--speculative", "prompt-lookup", *limits, "--output", str(output_dir))
    )
    with serve(workshop, output_dir) as served:
        yield served


def metric(served: Served, name: str, kind: str) -> float:
    """Return a value of the Prometheus text that Triton serves."""
    text = httpx.get(served.document["metrics"], timeout=30).text
    (line,) = (
        line for line in text.splitlines() if line.startswith(name + "{") and f'"{kind}"' in line
    )
    return float(line.rsplit(" ", 1)[1])


def eventually(holds: Callable[[], bool]) -> None:
    for _ in range(500):
        if holds():
            return
        threading.Event().wait(0.02)
    pytest.fail("it did not come to hold within ten seconds")


def engine_process(served: Served) -> int:
    """Return the one process of the server's group that computes."""
    (found,) = (
        member
        for member in living_members(served.document["pid"])
        if "engine_worker.py" in Path(f"/proc/{member}/cmdline").read_text()
    )
    return found


def test_prompt_lookup_gives_the_text_of_plain_decoding_in_fewer_steps(
    narrow: Served, twin: Served
) -> None:
    tokenizer = Tokenizer.from_file(str(sample_checkpoint_dir() / "tokenizer.json"))
    ids = tokenizer.encode(EDITED * 3).ids
    drafted, plain = (
        served.generate("tensorrt_llm", **ask(ids, 64, return_perf_metrics=True))
        for served in (narrow, twin)
    )
    assert drafted["output_ids"] == plain["output_ids"]
    accepted = drafted["total_accepted_draft_tokens"]
    assert 64 / (64 - accepted) >= 2.5
    assert plain["total_accepted_draft_tokens"] == 0


def test_several_sequences_are_refused_where_tokens_are_drafted(narrow: Served) -> None:
    answer = narrow.generate("tensorrt_llm", **ask(IDS, 4, num_return_sequences=2, runtime_top_k=5))
    assert "do not go with prompt lookup" in answer["error"]


def test_perf_metrics_come_with_the_last_response_of_a_stream(narrow: Served) -> None:
    answers = list(
        narrow.stream("tensorrt_llm", **ask(IDS, 32, streaming=True, return_perf_metrics=True))
    )
    names = ("arrival", "first_scheduled", "first_token", "last_token")
    times = [answers[-1][f"{name}_time_ns"] for name in names]
    assert times == sorted(times)
    assert all("arrival_time_ns" not in answer for answer in answers[:-1])


def test_request_beyond_the_queue_is_refused_with_the_limits(narrow: Served) -> None:
    streams = [narrow.stream("tensorrt_llm", **ask(IDS, 900, streaming=True)) for _ in range(BATCH)]
    for stream in streams:
        next(stream)
    waiting = narrow.stream("tensorrt_llm", **ask(IDS, 900, streaming=True))
    third = threading.Thread(target=lambda: next(waiting))
    third.start()
    eventually(lambda: metric(narrow, "nv_trt_llm_request_metrics", "waiting") == QUEUE)
    refused = narrow.generate("tensorrt_llm", **ask(IDS, 4))
    assert refused["error"].endswith(
        "the queue is full: 3 prompts run or wait, the model takes at most 3 "
        "(max_batch_size plus max_queue_size)"
    )
    assert metric(narrow, "nv_trt_llm_request_metrics", "scheduled") == BATCH
    for stream in streams:
        stream.close()  # type: ignore[attr-defined] # a generator, whose close ends the connection
    third.join(30)
    assert not third.is_alive()
    waiting.close()  # type: ignore[attr-defined]
    eventually(lambda: metric(narrow, "nv_trt_llm_request_metrics", "active") == 0)


def test_metrics_have_the_engines_figures(narrow: Served) -> None:
    blocks = {
        kind: metric(narrow, "nv_trt_llm_kv_cache_block_metrics", kind)
        for kind in ("max", "free", "used", "tokens_per", "fraction")
    }
    assert metric(narrow, "nv_trt_llm_request_metrics", "max") == BATCH
    assert blocks["free"] + blocks["used"] == blocks["max"] > 0
    assert blocks["tokens_per"] == 32
    before = metric(narrow, "forge_tokens", "generated")
    steps = metric(narrow, "nv_trt_llm_general_metrics", "iteration_counter")
    narrow.generate("tensorrt_llm", **ask(IDS, 10))
    eventually(lambda: metric(narrow, "forge_tokens", "generated") == before + 10)
    eventually(lambda: metric(narrow, "nv_trt_llm_general_metrics", "iteration_counter") > steps)
    resident = metric(narrow, "nv_trt_llm_runtime_memory_metrics", "cpu")
    assert resident > 50e6


def test_engine_computes_with_priority_over_what_is_around_it(narrow: Served) -> None:
    assert os.sched_getscheduler(narrow.document["pid"]) == os.SCHED_BATCH
    assert os.sched_getscheduler(engine_process(narrow)) == os.SCHED_OTHER


def test_killed_engine_fails_its_requests_and_another_takes_its_place(narrow: Served) -> None:
    before = narrow.generate("tensorrt_llm", **ask(IDS, 8))["output_ids"]
    stream = narrow.stream("tensorrt_llm", **ask(IDS, 900, streaming=True))
    next(stream)
    killed = engine_process(narrow)
    os.kill(killed, signal.SIGKILL)
    *_, last = stream
    assert "the engine's process ended with signal 9" in last["error"]
    assert narrow.generate("tensorrt_llm", **ask(IDS, 8))["output_ids"] == before
    assert engine_process(narrow) != killed
