"""What ``forge check`` finds in whole repositories: upstream's, rendered ones, examples."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from scripts.render_examples import EXAMPLES, render_example
from tests.check_fixtures import (
    ENGINE_DIR,
    OPTIONS,
    TOKENIZER_DIR,
    append,
    engine_repository,
    llmapi_repository,
    parameter,
    remove,
    upstream_repository,
    write,
)
from tests.check_upstream import RELEASES, write_upstream
from tests.rendering import stage
from trtllm_forge.check.run import check_repository
from trtllm_forge.check.view import CheckOptions

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

CORE = "tensorrt_llm/config.pbtxt"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return engine_repository(tmp_path / "sound")


def serious(root: Path, options: CheckOptions | None = None) -> list[str]:
    report = check_repository(root, options)
    return [
        f"{f.code} {f.path}:{f.line} {f.message}" for f in report.findings if f.severity != "info"
    ]


@pytest.mark.parametrize("release", RELEASES)
def test_upstreams_repository_with_optional_placeholders_left_is_sound(
    release: str, tmp_path: Path
) -> None:
    root = write_upstream(release, tmp_path)
    assert serious(root, CheckOptions(trtllm_version=release)) == []
    assert serious(root) == []


@pytest.mark.parametrize("name", EXAMPLES)
def test_rendered_example_is_sound(name: str, tmp_path: Path) -> None:
    render_example(name, tmp_path / name)
    assert serious(tmp_path / name) == []


@pytest.mark.parametrize("runtime", ["openvino", "trtllm"])
@pytest.mark.parametrize("release", RELEASES)
def test_rendered_repository_is_sound_for_every_release(
    runtime: Any, release: str, tmp_path: Path
) -> None:
    from trtllm_forge.reporter import SilentReporter

    download_dir = tmp_path / "download"
    write("tokenizer.json", "{}")(download_dir)
    work_dir = tmp_path / "repository"
    work_dir.mkdir()
    stage(runtime, trtllm_version=release).run(
        work_dir, {"download": download_dir}, SilentReporter()
    )
    assert serious(work_dir, CheckOptions(trtllm_version=release)) == []


def test_release_is_told_by_the_option_else_manifest_or_lock_else_the_engine_else_the_tensors(
    root: Path,
) -> None:
    def release(options: CheckOptions) -> tuple[str, str]:
        found = check_repository(root, options).release
        assert found is not None
        return found.version, found.origin

    assert release(OPTIONS) == ("1.2.1", "--trtllm-version")
    write("forge.lock", '{"stages": {"render": {"parameters": {"trtllm_version": "1.1"}}}}')(root)
    assert release(CheckOptions()) == ("1.1", "forge.lock")
    write("forge.manifest.json", '{"recipe": {"trtllm_version": "1.0"}}')(root)
    assert release(CheckOptions()) == ("1.0", "forge.manifest.json")
    remove("forge.manifest.json")(root)
    remove("forge.lock")(root)
    assert release(CheckOptions()) == ("1.2.1", "the engine's config.json")
    remove(ENGINE_DIR)(root)
    assert release(CheckOptions()) == (
        "1.2",
        "the nearest by its tensors, of which all are its own",
    )


def test_no_large_file_is_read(root: Path) -> None:
    for path in (f"{ENGINE_DIR}/rank0.engine", f"{TOKENIZER_DIR}/tokenizer.json"):
        with (root / path).open("wb") as stream:
            stream.write(b"{")
            stream.seek(1 << 36)
            stream.write(b"}")
    assert serious(root, OPTIONS) == []


def test_path_under_another_mount_is_not_held_against_the_repository(root: Path) -> None:
    parameter("preprocessing", "tokenizer_dir", "/engines/tokenizer")(root)
    parameter("postprocessing", "tokenizer_dir", "/engines/tokenizer")(root)
    parameter("tensorrt_llm", "gpt_model_path", "/engines/llama")(root)
    assert serious(root, CheckOptions(trtllm_version="1.2.1")) == []


def test_path_beside_others_that_are_here_has_to_be_here(tmp_path: Path) -> None:
    root = upstream_repository(tmp_path / "sound")
    (tmp_path / "tokenizer").mkdir()
    write("tokenizer/tokenizer.json", "{}")(tmp_path)
    for model in ("preprocessing", "postprocessing"):
        parameter(model, "tokenizer_dir", str(tmp_path / "tokenizer"))(root)
    parameter("tensorrt_llm", "gpt_model_path", "/nowhere/engine")(root)
    line = len((root / CORE).read_text().partition("gpt_model_path")[0].splitlines())
    assert serious(root, CheckOptions(trtllm_version="1.2.1"))[-1:] == [
        f"FL401 {CORE}:{line} /nowhere/engine is missing"
    ]


OTHER_MODEL = """name: "{name}"
backend: "python"
max_batch_size: 64
model_transaction_policy {{ decoupled: true }}
input [{{ name: "{input}" data_type: TYPE_INT32 dims: [-1] }},
       {{ name: "request_output_len" data_type: TYPE_INT32 dims: [1] }}]
output [{{ name: "output_ids" data_type: TYPE_INT32 dims: [-1, -1] }}]
parameters: {{ key: "{key}" value: {{ string_value: "tensorrt_llm" }} }}
instance_group [{{ count: 8 kind: KIND_CPU }}]
"""


@pytest.mark.parametrize(
    ("name", "tensor", "key"),
    [
        ("disaggregated_serving_bls", "input_ids", "context_model_name"),
        ("whisper_bls", "WAV", "engine_dir"),
        ("gpt", "input_ids", "engine_dir"),
    ],
)
def test_upstreams_models_for_other_layouts_are_not_held_to_the_five(
    name: str, tensor: str, key: str, tmp_path: Path
) -> None:
    root = upstream_repository(tmp_path)
    text = OTHER_MODEL.format(name=name, input=tensor, key=key)
    write(f"{name}/config.pbtxt", text)(root)
    write(f"{name}/1/model.py", "class TritonPythonModel: ...\n")(root)
    assert serious(root, OPTIONS) == []


def test_model_that_disaggregated_serving_calls_has_to_be_there(tmp_path: Path) -> None:
    root = upstream_repository(tmp_path)
    name = "disaggregated_serving_bls"
    text = OTHER_MODEL.format(name=name, input="input_ids", key="context_model_name")
    write(f"{name}/config.pbtxt", text.replace('"tensorrt_llm"', '"context"'))(root)
    write(f"{name}/1/model.py", "class TritonPythonModel: ...\n")(root)
    assert serious(root, OPTIONS) == [
        f"FL220 {name}/config.pbtxt:8 context_model_name is context, but no model has that name"
    ]


def test_vocabulary_of_a_large_tokenizer_is_told_by_its_last_entry(root: Path) -> None:
    vocabulary = {f"a rather long token, number {n}": n for n in range(20000)}
    document = {"model": {"vocab": vocabulary, "merges": [["a", "b"]] * 1000}}
    write(f"{TOKENIZER_DIR}/tokenizer.json", json.dumps(document))(root)
    assert {text.partition(" ")[0] for text in serious(root, OPTIONS)} == {"FL604"}
    assert "token id 19999, but the engine knows 16 tokens" in serious(root, OPTIONS)[0]


@pytest.mark.parametrize(
    ("name", "mutate"),
    [
        ("a brace", lambda text: text.replace("backend:", "{ backend:", 1)),
        ("another template's mark", lambda text: text.replace(": 64", ": {{ batch }}", 1)),
        ("typographic quotes", lambda text: text.replace('"python"', "“python”", 1)),
    ],
    ids=lambda case: case if isinstance(case, str) else "",
)
def test_what_is_not_read_is_not_said_to_be_absent(
    root: Path, name: str, mutate: Callable[[str], str]
) -> None:
    path = root / "preprocessing/config.pbtxt"
    path.write_text(mutate(path.read_text()))
    codes = [line.partition(" ")[0] for line in serious(root, OPTIONS)]
    assert codes == ["FL101"], name


def test_lost_configuration_is_named_once(root: Path) -> None:
    (root / "preprocessing/config.pbtxt").unlink()
    assert [line.partition(" ")[0] for line in serious(root, OPTIONS)] == ["FL110"]


def test_arguments_that_forge_does_not_write_are_known(tmp_path: Path) -> None:
    root = llmapi_repository(tmp_path)
    write(
        "tensorrt_llm/1/model.yaml",
        """\
model: /models/tensorrt_llm/1/checkpoint
backend: pytorch
tensor_parallel_size: 8
moe_expert_parallel_size: 8
enable_attention_dp: true
guided_decoding_backend: xgrammar
load_format: auto
max_beam_width: 4
stream_interval: 4
kv_cache_config:
  dtype: fp8
  host_cache_size: 1000000000
  max_attention_window: [512, 4096]
scheduler_config:
  context_chunking_policy: EQUAL_PROGRESS
cuda_graph_config: null
moe_config:
  backend: CUTLASS
speculative_config:
  decoding_type: MTP
  num_nextn_predict_layers: 2
triton_config:
  max_batch_size: 0
  decoupled: true
""",
    )(root)
    assert serious(root, OPTIONS) == []


@pytest.mark.parametrize("writer", ["forge", "hand"])
def test_weights_may_be_missing_from_what_forge_rendered_alone(tmp_path: Path, writer: str) -> None:
    root = llmapi_repository(tmp_path)
    remove("tensorrt_llm/1/checkpoint/model.safetensors")(root)
    config = root / CORE
    config.write_text(config.read_text().replace("Written by forge", f"Written by {writer}"))
    (found,) = check_repository(root, OPTIONS, select=("FL912",)).findings
    assert found.severity == ("info" if writer == "forge" else "error")
    assert found.message == "/models/tensorrt_llm/1/checkpoint has no weights"


def test_argument_that_is_near_no_known_one_is_no_error(tmp_path: Path) -> None:
    root = llmapi_repository(tmp_path)
    append("tensorrt_llm/1/model.yaml", "something_new: 1\n")(root)
    assert serious(root, OPTIONS) == [
        "FL903 tensorrt_llm/1/model.yaml:10 the LLM API has no argument something_new"
    ]
    (found,) = check_repository(root, OPTIONS, select=("FL903",)).findings
    assert found.severity == "warning"


def test_utf_16_is_named_with_what_turns_it_into_utf_8(root: Path) -> None:
    path = root / "postprocessing/config.pbtxt"
    path.write_bytes(path.read_text().encode("utf-16"))
    found = check_repository(root, OPTIONS, select=("FL106",)).findings
    assert [(f.severity, f.message, f.hint) for f in found] == [
        (
            "error",
            "not UTF-8: it is UTF-16",
            "iconv -f utf-16 -t utf-8 postprocessing/config.pbtxt",
        )
    ]


def test_engine_of_an_unknown_release_is_held_against_the_tensors(tmp_path: Path) -> None:
    root = upstream_repository(tmp_path)
    config = next(tmp_path.rglob("engine/config.json"))
    config.write_text(config.read_text().replace('"version": "', '"version": "0.9'))
    version = json.loads(config.read_text())["version"]
    (found,) = [line for line in serious(root) if line.startswith("FL4")]
    assert f"the engine was built by TensorRT-LLM {version}, and the tensors are those" in found


def test_engine_of_one_release_among_the_tensors_of_another_is_named(tmp_path: Path) -> None:
    root = write_upstream("1.2", tmp_path)
    config = tmp_path / "engine/config.json"
    for version, is_named in (("0.16.0", True), ("1.1.0", False), ("1.2.1", False)):
        config.write_text(json.dumps({**json.loads(config.read_text()), "version": version}))
        found = [line for line in serious(root) if line.startswith("FL409")]
        assert bool(found) is is_named, version


def test_file_in_place_of_a_folder_is_called_one(root: Path) -> None:
    for name in (TOKENIZER_DIR, ENGINE_DIR):
        remove(name)(root)
        write(name, "")(root)
    found = "\n".join(serious(root, OPTIONS))
    assert f"{TOKENIZER_DIR} is a file, not a folder" in found
    assert f"{ENGINE_DIR} is a file, not a folder" in found


def test_link_to_nowhere_in_place_of_a_model_is_named(root: Path) -> None:
    (root / "preprocessing/1/model.py").unlink()
    (root / "preprocessing/1/model.py").symlink_to("/nowhere/model.py")
    assert serious(root, OPTIONS) == [
        "FL803 preprocessing/1/model.py:None the link to /nowhere/model.py leads nowhere"
    ]
