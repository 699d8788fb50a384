"""The model over the LLM API on a real Triton, with a stand-in for TensorRT-LLM."""

from __future__ import annotations

import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from tests.checkpoint_builder import write_files
from tests.ports import free_port
from tests.process.recording import RecordingReporter, eventually
from tests.serving import options_for
from tests.triton.grpc_stream import GrpcStream
from tests.triton.served import Served
from trtllm_forge.build.stages.render import RenderStage
from trtllm_forge.config.schema import BuildSection, ForgeConfig, RepositorySection
from trtllm_forge.config.settings import read_settings
from trtllm_forge.reporter import SilentReporter
from trtllm_forge.runtimes.llmapi import LlmApiRuntime
from trtllm_forge.serving.server.serve import start_server

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.triton

STAND_IN = Path(__file__).parent.parent / "stand_ins" / "tensorrt_llm"
MODEL = "tensorrt_llm"
ENDLESS = 100_000


def render(root: Path, *, decoupled: bool) -> Path:
    """Render the repository as a build would, with everything on that the release has."""
    config = ForgeConfig(
        model="small",
        trtllm_version="1.2.1",
        build=BuildSection(max_batch_size=4, max_seq_len=512, speculative="prompt_lookup"),
        repository=RepositorySection(decoupled=decoupled),
    )
    stage = RenderStage(
        trtllm_version="1.2.1",
        max_batch_size=config.build.max_batch_size,
        repository=config.repository,
        engine_model=LlmApiRuntime().engine_model(config, 0.8),
    )
    checkpoint = write_files(root / "checkpoint", {"config.json": b"{}"})
    repository_dir = root / "repository"
    repository_dir.mkdir()
    stage.run(repository_dir, {"download": checkpoint}, SilentReporter())
    return repository_dir


@contextmanager
def serving(root: Path, *, decoupled: bool) -> Iterator[Served]:
    """Serve a rendered repository with the stand-in where its model looks for modules.

    The wheel's Triton ignores ``PYTHONPATH``.
    """
    repository_dir = render(root, decoupled=decoupled)
    shutil.copytree(STAND_IN, repository_dir / MODEL / "1" / STAND_IN.name)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FORGE_STATE_DIR", str(root / "state"))
        patch.setenv("FORGE_CACHE_DIR", str(root / "cache"))
        patch.setenv("STAND_IN_RECORD", str(root / "arguments.json"))
        options = options_for(
            repository_dir,
            http_port=free_port("127.0.0.1"),
            grpc_port=free_port("127.0.0.1"),
            metrics_port=free_port("127.0.0.1"),
        )
        with start_server(options, read_settings(), RecordingReporter()) as server:
            yield Served(document={"http": server.urls.http, "grpc": server.urls.grpc})


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("llmapi")


@pytest.fixture(scope="module")
def served(root: Path) -> Iterator[Served]:
    with serving(root, decoupled=True) as server:
        yield server


def ask(served: Served, text: str = "def ", **inputs: Any) -> dict[str, Any]:
    answer = served.generate(MODEL, text_input=text, **inputs)
    frame = ("id", "model_name", "model_version")
    return {key: value for key, value in answer.items() if key not in frame}


def words(count: int) -> str:
    return "".join(f" w{number}" for number in range(count))


def test_the_engine_gets_what_model_yaml_says_and_the_checkpoint_of_the_repository(
    served: Served, root: Path
) -> None:
    given = json.loads((root / "arguments.json").read_text())
    # Triton has the repository as a folder of links to it.
    given["model"] = str(Path(given["model"]).resolve())
    assert given == {
        "model": str(root / "repository" / "tensorrt_llm" / "1" / "checkpoint"),
        "backend": "pytorch",
        "tensor_parallel_size": 1,
        "pipeline_parallel_size": 1,
        "dtype": "float16",
        "max_batch_size": 4,
        "max_seq_len": 512,
        "enable_chunked_prefill": True,
        "kv_cache_config": {"enable_block_reuse": True, "free_gpu_memory_fraction": 0.8},
        "scheduler_config": {"capacity_scheduler_policy": "GUARANTEED_NO_EVICT"},
        "cuda_graph_config": {"enable_padding": True, "batch_sizes": [1, 2, 4]},
        "speculative_config": {
            "max_draft_len": 5,
            "max_concurrency": 32,
            "max_matching_ngram_size": 3,
        },
        "disable_overlap_scheduler": True,
    }


def test_a_plain_request_is_answered_once_with_the_whole_text(served: Served) -> None:
    assert ask(served, sampling_param_max_tokens=5) == {"text_output": words(5)}


def test_what_is_asked_for_comes_with_the_text(served: Served) -> None:
    answer = ask(
        served,
        sampling_param_max_tokens=40,
        sampling_param_stop=[" w3", ""],
        return_finish_reason=True,
        return_stop_reason=True,
        return_cumulative_logprob=True,
    )
    assert answer == {
        "text_output": words(3),
        "finish_reason": "stop",
        "stop_reason": " w3",
        "cumulative_logprob": -2.0,
    }


def test_performance_figures_have_the_types_of_the_contract(served: Served) -> None:
    answer = ask(served, sampling_param_max_tokens=1, sampling_param_return_perf_metrics=True)
    day_ns = 86_400 * 10**9
    assert answer == {
        "text_output": " w0",
        "kv_cache_reused_block": 3,
        "kv_cache_missed_block": 1,
        "kv_cache_alloc_new_blocks": 2,
        "kv_cache_alloc_total_blocks": 5,
        "kv_cache_hit_rate": 0.75,
        "arrival_time_ns": day_ns + 1_000,
        "first_scheduled_time_ns": day_ns + 1_000_001_000,
        "first_token_time_ns": day_ns + 2_000_001_000,
        "last_token_time_ns": day_ns + 3_000_001_000,
        "acceptance_rate": 0.5,
        "total_accepted_draft_tokens": 4,
        "total_draft_tokens": 8,
    }


def test_each_response_of_a_stream_holds_the_whole_text_so_far(served: Served) -> None:
    answers = list(
        served.stream(
            MODEL, text_input="def ", sampling_param_max_tokens=4, return_finish_reason=True
        )
    )
    assert [(a["text_output"], a["finish_reason"]) for a in answers] == [
        (words(1), ""),
        (words(2), ""),
        (words(3), ""),
        (words(4), "length"),
    ]


def test_requests_run_at_the_same_time(served: Served) -> None:
    with endless(served):
        assert others(served) == "1"
    assert idle(served)


def test_a_cancelled_stream_ends_in_the_engine(served: Served) -> None:
    stream = GrpcStream(served.grpc, MODEL, endless_inputs())
    stream.first()
    stream.cancel()
    assert idle(served)


def test_stop_ends_the_generation_of_its_id_with_the_text_so_far(served: Served) -> None:
    answers = served.stream(
        MODEL,
        id="mine",
        text_input="def ",
        sampling_param_max_tokens=ENDLESS,
        return_finish_reason=True,
    )
    next(answers)
    assert ask(served, "", id="mine", stop=True) == {"error": "Request cancelled by client"}
    last = list(answers)[-1]
    assert last["finish_reason"] == "cancelled"
    assert last["text_output"] == words(last["text_output"].count(" w"))


@pytest.mark.parametrize(
    ("inputs", "error"),
    [
        pytest.param(
            {"text_input": ["a", "b"]},
            "Error generating request: text_input holds 2 prompts, a request has 1",
            id="two-prompts",
        ),
        pytest.param(
            {"text_input": "a", "sampling_param_temperature": -1.0},
            "Error generating request: require temperature >= 0, got temperature=-1.0",
            id="refused-by-the-engine",
        ),
        pytest.param(
            {"text_input": "break"},
            "Error generating request: CUDA error: an illegal memory access was encountered",
            id="engine-breaks",
        ),
        pytest.param(
            {"text_input": "", "stop": True, "id": ""},
            "A request id must be provided for request cancellation",
            id="stop-without-id",
        ),
    ],
)
def test_a_refused_request_says_why_and_the_next_one_is_served(
    served: Served, inputs: dict[str, Any], error: str
) -> None:
    assert served.generate(MODEL, **inputs)["error"] == error
    assert ask(served, sampling_param_max_tokens=1) == {"text_output": " w0"}


def test_a_model_that_is_not_decoupled_answers_side_by_side_and_refuses_a_stream(
    tmp_path: Path,
) -> None:
    with serving(tmp_path, decoupled=False) as served, ThreadPoolExecutor() as pool:
        long = pool.submit(ask, served, sampling_param_max_tokens=1_000)
        assert eventually(lambda: others(served) == "1")
        assert long.result() == {"text_output": words(1_000)}
        refused = ask(served, streaming=True)
    assert refused == {
        "error": "Error generating request: Streaming is only supported in decoupled mode."
    }


def others(served: Served) -> str:
    """Return how many generations run beside the one that asks."""
    return str(ask(served, "others?", sampling_param_max_tokens=1)["text_output"])


def endless_inputs() -> dict[str, Any]:
    return {
        "text_input": np.array([b"def "], np.object_),
        "sampling_param_max_tokens": np.array([ENDLESS], np.int32),
        "streaming": np.array([True]),
    }


@contextmanager
def endless(served: Served) -> Iterator[None]:
    """Keep a generation running."""
    stream = GrpcStream(served.grpc, MODEL, endless_inputs())
    stream.first()
    try:
        yield
    finally:
        stream.cancel()


def idle(served: Served) -> bool:
    """Wait until nothing runs in the engine, and return whether that came."""
    return eventually(lambda: others(served) == "0")
