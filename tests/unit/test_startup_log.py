"""Reading why a server did not start from its log."""

from __future__ import annotations

import pytest

from tests.process.fake_triton import MODEL_FAILS_LOG
from trtllm_forge.triton.startup_log import (
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
