"""The twin's models on a real Triton: what goes in, what comes out, what is refused."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from tokenizers import Tokenizer

from tests.triton.grpc_stream import GrpcStream, long_inputs
from trtllm_forge.files.resources import sample_checkpoint_dir

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.triton.served import Served
    from tests.twin import TwinWorkshop

pytestmark = pytest.mark.triton

PROMPT = "def read_json(path):\n    "
IDS = [526, 901, 70, 275, 700, 626]
AGREEMENT = Path(__file__).resolve().parents[2] / "scripts" / "agreement.py"
FRONTS = ["ensemble", "tensorrt_llm_bls"]


def core(ids: list[int], tokens: int, **inputs: Any) -> dict[str, Any]:
    return {
        "input_ids": ids,
        "input_lengths": len(ids),
        "request_output_len": tokens,
        "exclude_input_in_output": True,
        **inputs,
    }


@pytest.mark.parametrize("model", FRONTS)
def test_streamed_text_equals_the_whole_text(twin: Served, model: str) -> None:
    whole = twin.generate(model, text_input=PROMPT, max_tokens=48, exclude_input_in_output=True)
    pieces = [a["text_output"] for a in twin.stream(model, text_input=PROMPT, max_tokens=48)]
    assert len(whole["text_output"]) > 20
    assert len(pieces) > 1
    assert "".join(pieces) == whole["text_output"]


def test_both_fronts_give_the_same_text(twin: Served) -> None:
    texts = [
        twin.generate(model, text_input=PROMPT, max_tokens=24)["text_output"] for model in FRONTS
    ]
    assert texts[0] == texts[1]
    assert texts[0].startswith(PROMPT)


def test_the_core_counts_tokens_and_gives_their_log_probs(twin: Served) -> None:
    answer = twin.generate(
        "tensorrt_llm",
        **core(IDS, 8, return_log_probs=True),
        return_num_input_tokens=True,
        return_num_output_tokens=True,
    )
    assert answer["num_input_tokens"] == len(IDS)
    assert answer["num_output_tokens"] == answer["sequence_length"] == 8
    assert len(answer["output_ids"]) == len(answer["output_log_probs"]) == 8
    assert answer["cum_log_probs"] == pytest.approx(sum(answer["output_log_probs"]), rel=1e-4)
    assert all(value < 0 for value in answer["output_log_probs"])


def test_the_answer_holds_the_prompt_unless_it_is_excluded(twin: Served) -> None:
    with_prompt = twin.generate(
        "tensorrt_llm", **{**core(IDS, 4), "exclude_input_in_output": False}
    )
    without = twin.generate("tensorrt_llm", **core(IDS, 4))
    assert with_prompt["output_ids"] == [*IDS, *without["output_ids"]]


def test_a_request_joins_the_running_batch(twin: Served) -> None:
    """One sent while a longer one generates gets its first token before that one ends."""
    order: list[str] = []
    long_has_started = threading.Event()

    def run_long() -> None:
        for _ in twin.stream("tensorrt_llm", **core(IDS, 900)):
            long_has_started.set()
        order.append("long ended")

    with ThreadPoolExecutor(1) as threads:
        running = threads.submit(run_long)
        assert long_has_started.wait(30)
        next(twin.stream("tensorrt_llm", **core(IDS[:3], 4)))
        order.append("short began")
        running.result()
    assert order == ["short began", "long ended"]


def test_sixty_four_requests_at_once_give_what_each_gives_alone(twin: Served) -> None:
    prompts = [f"def function_{number}(a):\n    " for number in range(64)]

    def text(prompt: str) -> str:
        pieces = twin.stream("ensemble", text_input=prompt, max_tokens=16)
        return "".join(piece["text_output"] for piece in pieces)

    with ThreadPoolExecutor(64) as threads:
        together = list(threads.map(text, prompts))
    assert together == [text(prompt) for prompt in prompts]


def test_thirty_two_bls_requests_at_once_give_what_the_ensemble_gives(twin: Served) -> None:
    prompts = [f"class Thing{number}:\n    " for number in range(32)]

    def text(model: str, prompt: str) -> str:
        pieces = twin.stream(model, text_input=prompt, max_tokens=16)
        return "".join(piece["text_output"] for piece in pieces)

    with ThreadPoolExecutor(32) as threads:
        bls = list(threads.map(lambda prompt: text("tensorrt_llm_bls", prompt), prompts))
    assert bls == [text("ensemble", prompt) for prompt in prompts]


def test_the_end_id_ends_the_text_and_is_no_part_of_it(twin: Served) -> None:
    free = twin.generate("tensorrt_llm", **core(IDS, 12, end_id=-1))["output_ids"]
    end_id = free[5]
    ended = twin.generate("tensorrt_llm", **core(IDS, 12, end_id=end_id))
    assert ended["output_ids"] == free[: free.index(end_id)]


def test_a_stop_word_of_several_tokens_ends_the_ensembles_text_behind_it(twin: Served) -> None:
    tokenizer = Tokenizer.from_file(str(sample_checkpoint_dir() / "tokenizer.json"))
    ids = tokenizer.encode(PROMPT).ids
    free = twin.generate("tensorrt_llm", **core(ids, 32))["output_ids"]
    # A word that the tokenizer cuts as the engine wrote it, first at this place.
    stop, end = next(
        (tokenizer.decode(free[at : at + 2]), at + 2)
        for at in range(4, 30)
        if tokenizer.encode(tokenizer.decode(free[at : at + 2])).ids == free[at : at + 2]
        and tokenizer.decode(free[at : at + 2]) not in tokenizer.decode(free[: at + 1])
    )
    ask = {"text_input": PROMPT, "max_tokens": 32, "exclude_input_in_output": True}
    assert twin.generate(**ask, stop_words=[stop])["text_output"] == tokenizer.decode(free[:end])


@pytest.mark.parametrize("streams", [True, False], ids=["streamed", "whole"])
def test_nothing_of_a_stop_string_leaks_out_of_bls(twin: Served, *, streams: bool) -> None:
    ask: dict[str, Any] = {"text_input": PROMPT, "max_tokens": 48}
    free = twin.generate("tensorrt_llm_bls", **ask, exclude_input_in_output=True)["text_output"]
    stop = free[10:15]  # begins and ends inside tokens
    if streams:
        answers = twin.stream("tensorrt_llm_bls", **ask, stop_words=[stop])
        text = "".join(answer["text_output"] for answer in answers)
    else:
        answer = twin.generate(
            "tensorrt_llm_bls", **ask, stop_words=[stop], exclude_input_in_output=True
        )
        text = answer["text_output"]
    assert text == free[: free.index(stop)]


def test_one_seed_gives_one_text_and_another_a_different_one(twin: Served) -> None:
    ask = {"text_input": PROMPT, "max_tokens": 32, "top_k": 50, "temperature": 1.0}
    texts = [twin.generate(**ask, seed=seed)["text_output"] for seed in (7, 7, 8)]
    assert texts[0] == texts[1] != texts[2]


def test_temperature_alone_does_not_leave_the_greedy_text(twin: Served) -> None:
    ask = {"text_input": PROMPT, "max_tokens": 16}
    assert (
        twin.generate(**ask, temperature=2.0)["text_output"] == twin.generate(**ask)["text_output"]
    )


def test_complete_samples_where_it_is_given_a_temperature_alone(
    workshop: TwinWorkshop, twin: Served
) -> None:
    def text(*arguments: str) -> str:
        address = ("--http", str(twin.document["http"]))
        done = workshop.forge("complete", PROMPT, "--max-tokens", "24", *address, *arguments)
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert text() == text()
    assert len({text(), *(text("--temperature", "1", "--seed", seed) for seed in "12")}) == 3


def test_several_rows_are_answered_each_with_its_index(twin: Served) -> None:
    rows = [IDS[:4], IDS[1:5]]
    body = {
        "inputs": [
            {"name": name, "shape": [2, len(values[0])], "datatype": "INT32", "data": values}
            for name, values in (
                ("input_ids", rows),
                ("input_lengths", [[4], [4]]),
                ("request_output_len", [[3], [3]]),
            )
        ]
    }
    refused = httpx.post(twin.url("tensorrt_llm", "infer"), json=body, timeout=30)
    assert "decoupled" in refused.json()["error"]


REFUSALS: dict[str, tuple[dict[str, Any], str]] = {
    "bad words": ({"bad_words": ["import"]}, "bad_words_list carries words"),
    "embedding bias": (
        {"embedding_bias_words": ["import"], "embedding_bias_weights": [2.0]},
        "embedding_bias carries a value",
    ),
    "context logits": ({"return_context_logits": True}, "return_context_logits carries a value"),
    "generation logits": (
        {"return_generation_logits": True},
        "return_generation_logits carries a value",
    ),
    "adapter": ({"lora_task_id": 7}, "lora_task_id carries a value"),
    "guide": (
        {"guided_decoding_guide_type": "json", "guided_decoding_guide": "{}"},
        "guided_decoding_guide_type carries a value",
    ),
    "beams": ({"beam_width": 2}, "beam_width is 2, the model allows at most 1"),
    "no tokens": ({"max_tokens": 0}, "request_output_len is 0"),
}


@pytest.mark.parametrize("model", FRONTS)
@pytest.mark.parametrize("case", REFUSALS)
def test_an_input_that_cannot_be_honoured_is_named(twin: Served, model: str, case: str) -> None:
    inputs, message = REFUSALS[case]
    answer = twin.generate(model, **{"text_input": PROMPT, "max_tokens": 8, **inputs})
    assert message in answer["error"]


@pytest.mark.parametrize("model", FRONTS)
def test_empty_and_default_values_count_as_absent(twin: Served, model: str) -> None:
    plain = twin.generate(model, text_input=PROMPT, max_tokens=8)
    defaults = twin.generate(
        model,
        text_input=PROMPT,
        max_tokens=8,
        bad_words=[""],
        stop_words=[""],
        embedding_bias_words=[""],
        embedding_bias_weights=[0.0],
        return_context_logits=False,
        beam_width=1,
        lora_task_id=0,
        guided_decoding_guide_type="",
    )
    assert defaults["text_output"] == plain["text_output"]


def test_a_prompt_that_is_too_long_names_both_numbers(twin: Served) -> None:
    answer = twin.generate(text_input="a b c d e " * 400, max_tokens=4)
    assert "the engine takes at most 1023" in answer["error"]
    assert "the prompt has " in answer["error"]


def test_an_empty_prompt_is_called_empty(twin: Served) -> None:
    assert "text_input is empty" in twin.generate(text_input="", max_tokens=4)["error"]


def test_one_bad_request_does_not_fail_its_neighbours(twin: Served) -> None:
    good = {"text_input": PROMPT, "max_tokens": 4}
    bad = {"text_input": "x " * 3000, "max_tokens": 4}
    with ThreadPoolExecutor(16) as threads:
        answers = list(
            threads.map(lambda n: twin.generate(**(bad if n % 4 == 0 else good)), range(16))
        )
    assert ["error" in answer for answer in answers] == [n % 4 == 0 for n in range(16)]


def test_output_is_cut_to_the_engines_sequence_length(twin: Served) -> None:
    ids = IDS * 170
    answer = twin.generate("tensorrt_llm", **core(ids, 500, end_id=-1))
    assert answer["sequence_length"] == 1024 - len(ids)


def test_a_request_whose_timeout_passes_ends_with_an_error(twin: Served) -> None:
    stream = GrpcStream(
        twin.grpc, "tensorrt_llm", long_inputs("tensorrt_llm", 900), timeout_us=50_000
    )
    answers = [stream.first()]
    while not isinstance(answers[-1], Exception):
        answers.append(stream.first())
    stream.cancel()
    assert "the request's timeout passed" in str(answers[-1])


def wait_for_quiet(twin: Served, model: str, ended: int) -> None:
    """Wait until a model has ended ``ended`` requests more; fails by its own deadline."""
    for _ in range(400):
        if twin.ended_counts()[model] >= ended:
            return
        threading.Event().wait(0.02)
    pytest.fail(f"{model} did not end its request: {twin.ended_counts()}")


def close_http(twin: Served, model: str) -> None:
    answers = twin.stream(model, text_input=PROMPT, max_tokens=900, end_id=-1)
    next(answers)
    answers.close()  # type: ignore[attr-defined] # a generator, whose close ends the connection


def cancel_grpc(twin: Served, model: str) -> None:
    stream = GrpcStream(twin.grpc, model, long_inputs(model, 900))
    stream.first()
    stream.cancel()


# Of the ensemble's cancellations Triton shows postprocessing most, but not one that falls
# between two of its calls; then the engine writes on to the request's own end.
TRIES = 10
TOLD = {"ensemble": 6, "tensorrt_llm_bls": TRIES}


@pytest.mark.parametrize("leave", [close_http, cancel_grpc])
@pytest.mark.parametrize("model", FRONTS)
def test_a_client_that_leaves_stops_the_work_in_the_core(
    twin: Served, model: str, leave: Callable[[Served, str], None]
) -> None:
    before, ended = twin.inference_counts(), twin.ended_counts()
    for number in range(1, TRIES + 1):
        leave(twin, model)
        wait_for_quiet(twin, model, ended[model] + number)
    # One request of the core for the work, and one that stops it. Triton counts what it has
    # answered a little later than it answers.
    for _ in range(400):
        stops = twin.inference_counts()["tensorrt_llm"] - before["tensorrt_llm"] - TRIES
        if stops >= TOLD[model]:
            break
        threading.Event().wait(0.02)
    assert TOLD[model] <= stops <= TRIES


def test_the_stop_input_ends_the_request_of_its_id(twin: Served) -> None:
    ask = core(IDS, 900, end_id=-1, id="to-be-stopped")
    answers = twin.stream("tensorrt_llm", **ask)
    received = next(answers)["sequence_length"]
    stopped = list(twin.stream("tensorrt_llm", **core([1], 1, stop=True, id="to-be-stopped")))
    received += sum(answer["sequence_length"] for answer in answers)
    assert received < 900
    assert [answer for answer in stopped if "error" in answer] == []


def test_stop_without_an_id_is_refused(twin: Served) -> None:
    answer = twin.generate("tensorrt_llm", **core([1], 1, stop=True), id="")
    assert "stop needs the id" in answer["error"]


def test_fp16_text_equals_that_of_transformers_on_20_prompts(twin: Served) -> None:
    done = subprocess.run(
        [sys.executable, str(AGREEMENT), "--reference"], capture_output=True, text=True, check=True
    )
    wanted = dict(json.loads(done.stdout))
    got = {
        prompt: twin.generate(text_input=prompt, max_tokens=32, exclude_input_in_output=True)[
            "text_output"
        ]
        for prompt in wanted
    }
    assert len(wanted) == 20
    assert got == wanted
