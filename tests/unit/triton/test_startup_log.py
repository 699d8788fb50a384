"""Reading why a server did not start from its log."""

from __future__ import annotations

import pytest

from tests.process.fake_triton import MODEL_FAILS_LOG
from trtllm_forge.machine.process.failures import Diagnosis
from trtllm_forge.triton.launch.startup_log import (
    StartupFailure,
    find_startup_failure,
    models_still_loading,
)


def test_the_models_own_error_comes_before_what_follows_from_it() -> None:
    assert find_startup_failure(MODEL_FAILS_LOG.splitlines()) == StartupFailure(
        model="tensorrt_llm",
        message="ValueError: engine.json names 3 layers, the engine has 2",
        place="/srv/mock/tensorrt_llm/1/model.py:47 in initialize",
    )


OLD_STYLE = """\
I1121 04:09:36.694750 7785 server.cc:631] loading: tensorrt_llm:1
E1121 04:09:36.694750 7785 model_lifecycle.cc:630] failed to load 'tensorrt_llm' version 1: Internal: KeyError: 'x'

At:
  /models/tensorrt_llm/1/model.py(9): initialize
I1121 04:09:36.694816 7785 server.cc:674] next
"""  # noqa: E501 - a line as Triton writes it


@pytest.mark.parametrize(
    ("log", "wanted"),
    [
        pytest.param(
            OLD_STYLE,
            StartupFailure(
                model="tensorrt_llm",
                message="KeyError: 'x'",
                place="/models/tensorrt_llm/1/model.py:9 in initialize",
            ),
            id="older-release-breaks-lines",
        ),
        pytest.param(
            "| tensorrt_llm   | 1       | UNAVAILABLE: Invalid argument: unable to find backend "
            "library for backend 'tensorrtllm', try specifying runtime on the model "
            "configuration. |\n",
            StartupFailure(
                model="tensorrt_llm",
                message="unable to find backend library for backend 'tensorrtllm', "
                "try specifying runtime on the model configuration",
                place="",
                diagnosis=Diagnosis(
                    code="backend-missing",
                    cause="this Triton has no backend tensorrtllm",
                    hint="serve it in an NGC image whose tag ends in -trtllm-python-py3",
                    thread="https://github.com/triton-inference-server/tensorrtllm_backend/issues/66",
                    line="unable to find backend library for backend 'tensorrtllm', "
                    "try specifying runtime on the model configuration",
                ),
            ),
            id="only-the-table",
        ),
        pytest.param(
            '2026-11-21T04:18:10Z E 1 main.cc:257] "failed to start HTTP service: Unavailable - '
            "Socket '127.0.0.1:18000' already in use \"\n",
            StartupFailure(
                model="",
                message="failed to start HTTP service: Unavailable - "
                "Socket '127.0.0.1:18000' already in use",
                place="",
                diagnosis=Diagnosis(
                    code="port-in-use",
                    cause="another process listens on 127.0.0.1:18000, which HTTP needs",
                    hint="omit the port and forge picks a free one",
                    thread="",
                    line="failed to start HTTP service: Unavailable - "
                    "Socket '127.0.0.1:18000' already in use",
                ),
            ),
            id="port",
        ),
        pytest.param(
            "error: creating server: Internal - failed to load all models\n",
            StartupFailure(model="", message="Internal - failed to load all models", place=""),
            id="nothing-better",
        ),
    ],
)
def test_a_failure_is_found(log: str, wanted: StartupFailure) -> None:
    assert find_startup_failure(log.splitlines()) == wanted


def test_a_log_without_failure_has_none() -> None:
    assert find_startup_failure(['I "Started HTTPService at 127.0.0.1:8000"']) is None


def test_models_that_began_to_load_and_did_not_end_are_told() -> None:
    assert models_still_loading(MODEL_FAILS_LOG.splitlines()) == ("tensorrt_llm",)


RANKS_DIFFER = """\
I1114 09:29:58.110920 6946 model_lifecycle.cc:461] loading: tensorrt_llm:1
[1,0]<stderr>:[TensorRT-LLM][ERROR] 6: The engine plan file is generated on an incompatible device, expecting compute 8.0 got compute 8.9, please rebuild.
E1114 09:30:00.910920 6946 model_lifecycle.cc:621] failed to load 'tensorrt_llm' version 1: Internal: unexpected error when creating modelInstanceState
E1114 09:30:00.910930 6946 model_repository_manager.cc:563] Invalid argument: ensemble 'ensemble' depends on 'tensorrt_llm' which has no loaded version.
"""  # noqa: E501 - lines as Triton writes them


def test_a_model_that_says_little_is_explained_by_the_lines_before() -> None:
    failure = find_startup_failure(RANKS_DIFFER.splitlines())

    assert failure is not None
    assert (failure.model, failure.message) == (
        "tensorrt_llm",
        "unexpected error when creating modelInstanceState",
    )
    assert failure.diagnosis is not None
    assert failure.diagnosis.code == "engine-gpu-architecture"


def test_the_models_own_message_is_explained_before_any_other_line() -> None:
    log = """\
I1 12:00:00 1 pb_stub.cc:1] No module named 'tensorrt_llm'
2026-11-21T04:18:12Z E 1 model_lifecycle.cc:642] "failed to load 'm' version 1: Internal: Stub process 'm_0' is not healthy."
"""  # noqa: E501 - a line as Triton writes it

    failure = find_startup_failure(log.splitlines())

    assert failure is not None
    assert failure.diagnosis is not None
    assert failure.diagnosis.code == "python-stub-died"


def test_a_server_that_ends_before_it_says_why_is_explained_by_what_it_printed() -> None:
    log = ["[libprotobuf ERROR x.cc:337] Error parsing text-format inference.ModelConfig: 29:17: "]
    log[0] += "Expected integer, got: $"

    assert find_startup_failure(log) == StartupFailure(
        model="",
        message=log[0],
        place="",
        diagnosis=Diagnosis(
            code="config-placeholder",
            cause="line 29 of a config.pbtxt still has an unfilled placeholder",
            hint="grep -rn --include config.pbtxt '[$]{'",
            thread="https://github.com/triton-inference-server/tensorrtllm_backend/issues/501",
            line=log[0],
        ),
    )


def test_a_server_that_was_killed_is_explained_by_its_exit_code() -> None:
    failure = find_startup_failure(["loading"], returncode=-9)

    assert failure is not None
    assert failure.message == (
        "something killed it; most often that is the kernel running out of memory"
    )


def test_a_message_that_the_catalogue_does_not_know_stays_as_it_was() -> None:
    failure = find_startup_failure(MODEL_FAILS_LOG.splitlines(), returncode=1)

    assert failure is not None
    assert failure.diagnosis is None
