"""What the llmapi repository of each release holds, read with Triton's messages and a strict LLM.

The stand-in for ``tensorrt_llm`` was typed from the documentation, apart from the package's tables.
"""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from tests.checkpoint_builder import write_files
from tests.configuration import config_of
from trtllm_forge.build.stages.render import RenderStage
from trtllm_forge.releases.catalogue import read_catalogue
from trtllm_forge.reporter import SilentReporter
from trtllm_forge.runtimes.llmapi import LlmApiRuntime
from trtllm_forge.triton.repository.names import CHECKPOINT_DIR
from trtllm_forge.triton.repository.repository import read_model_configs

if TYPE_CHECKING:
    from collections.abc import Sequence

STAND_INS = Path(__file__).parent.parent.parent / "stand_ins"
VERSIONS = [
    release.version
    for release in read_catalogue().releases.values()
    if "llmapi" in release.flows and release.image
]
VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "everything": {
        "build": {
            "kv_cache": "fp8",
            "speculative": "prompt_lookup",
            "max_draft_len": 6,
            "max_seq_len": 2048,
            "max_num_tokens": 4096,
            "tp_size": 4,
            "pp_size": 2,
        },
        "repository": {
            "tokenizer_dir": "/tokenizer",
            "max_tokens_in_paged_kv_cache": 9_000,
            "batch_scheduler_policy": "max_utilization",
            "decoupled": False,
        },
        "checkpoint": {"trust_remote_code": True},
    },
}
# A process of its own: the stand-in carries the name of the real package.
LOAD = """
import sys, tempfile, pathlib, yaml
from tensorrt_llm import LLM
from tensorrt_llm.llmapi.llm_utils import update_llm_args_with_extra_dict
for path in sys.argv[2:]:
    arguments = yaml.safe_load(pathlib.Path(path).read_text())
    del arguments["triton_config"]
    arguments["model"] = sys.argv[1]
    LLM(**update_llm_args_with_extra_dict({}, arguments)).shutdown()
    print(path)
"""


def render(root: Path, version: str, variant: str) -> Path:
    config = config_of({"trtllm_version": version, **VARIANTS[variant]})
    stage = RenderStage(
        trtllm_version=version,
        max_batch_size=config.build.max_batch_size,
        repository=config.repository,
        engine_model=LlmApiRuntime().engine_model(config, 0.5),
    )
    checkpoint = write_files(
        root / "checkpoint",
        {"config.json": b"{}", "model.safetensors": b"weights", "deeper/tokenizer.json": b"{}"},
    )
    repository_dir = root / f"{version}-{variant}"
    repository_dir.mkdir()
    stage.run(repository_dir, {"download": checkpoint}, SilentReporter())
    return repository_dir


@pytest.mark.parametrize("version", VERSIONS)
def test_the_repository_is_one_model_with_its_checkpoint(tmp_path: Path, version: str) -> None:
    repository_dir = render(tmp_path, version, "plain")
    files = {
        path.relative_to(repository_dir).as_posix()
        for path in repository_dir.rglob("*")
        if path.is_file()
    }
    assert files == {
        "tensorrt_llm/config.pbtxt",
        "tensorrt_llm/1/model.yaml",
        "tensorrt_llm/1/model.py",
        "tensorrt_llm/1/llm_answer.py",
        "tensorrt_llm/1/llm_loop.py",
        "tensorrt_llm/1/llm_request.py",
        "tensorrt_llm/1/llm_settings.py",
        f"{CHECKPOINT_DIR}/config.json",
        f"{CHECKPOINT_DIR}/model.safetensors",
        f"{CHECKPOINT_DIR}/deeper/tokenizer.json",
    }


def test_model_yaml_and_the_configuration_say_the_same_of_the_transaction_policy(
    tmp_path: Path,
) -> None:
    said = {}
    for variant in VARIANTS:
        repository_dir = render(tmp_path, "1.2.1", variant)
        model = read_model_configs(repository_dir)["tensorrt_llm"]
        document = yaml.safe_load((repository_dir / "tensorrt_llm/1/model.yaml").read_text())
        said[variant] = (
            model.model_transaction_policy.decoupled,
            document["triton_config"]["decoupled"],
            model.max_batch_size,
            document["triton_config"]["max_batch_size"],
        )
    assert said == {"plain": (True, True, 0, 0), "everything": (False, False, 0, 0)}


def test_a_strict_llm_takes_what_each_release_is_given(tmp_path: Path) -> None:
    paths = [
        str(render(tmp_path, version, variant) / "tensorrt_llm/1/model.yaml")
        for version in VERSIONS
        for variant in VARIANTS
    ]
    done = load(tmp_path / "checkpoint", paths)
    assert done.stdout.splitlines() == paths, done.stderr


def test_the_strict_llm_refuses_a_key_it_does_not_know(tmp_path: Path) -> None:
    path = tmp_path / "model.yaml"
    path.write_text("model: x\nkv_cache_dtype: fp8\ntriton_config: {}\n")
    done = load(tmp_path, [str(path)])
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == (
        "ValueError: kv_cache_dtype: Extra inputs are not permitted"
    )


def test_the_model_reads_every_input_and_gives_every_output_of_the_contract(
    tmp_path: Path,
) -> None:
    repository_dir = render(tmp_path, "1.2.1", "plain")
    model = read_model_configs(repository_dir)["tensorrt_llm"]
    code = "\n".join(path.read_text() for path in repository_dir.glob("tensorrt_llm/1/*.py"))
    words = {
        node.value
        for node in ast.walk(ast.parse(code))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }
    prefixes = ("sampling_param_", "return_")
    inputs = {tensor.name for tensor in model.input}
    assert {name for name in inputs if not _is_read(name, words, prefixes)} == set()
    outputs = {tensor.name for tensor in model.output}
    assert {name for name in outputs if name.removesuffix("_ns") not in words} == set()


def _is_read(name: str, words: set[str], prefixes: Sequence[str]) -> bool:
    return name in words or any(
        name.startswith(prefix) and name.removeprefix(prefix) in words for prefix in prefixes
    )


def load(checkpoint_dir: Path, paths: Sequence[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", LOAD, str(checkpoint_dir), *paths],
        env={**os.environ, "PYTHONPATH": str(STAND_INS)},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
