from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from google.protobuf import text_format
from hypothesis import given, settings
from hypothesis import strategies as st
from tritonclient.grpc import model_config_pb2

from tests.rendering import configs, parameters, render, stage, tree
from tests.small_stage import printed
from trtllm_forge.build.stages import render as render_module
from trtllm_forge.build.stages.render import RenderStage, pbtxt_string
from trtllm_forge.config.schema import BuildSection
from trtllm_forge.errors import CheckpointError, RenderError
from trtllm_forge.files.resources import data_path, templates_dir
from trtllm_forge.reporter import SilentReporter
from trtllm_forge.triton.repository import contract as contract_module
from trtllm_forge.triton.repository.names import MODELS
from trtllm_forge.triton.repository.repository import read_model_configs

EVIL = 'x" } } backend: "evil'


def test_rendering_again_elsewhere_gives_the_same_bytes(tmp_path: Path) -> None:
    one = render(tmp_path / "one", stage())
    two = render(tmp_path / "two", stage())
    assert tree(one) == tree(two)


def test_no_rendered_file_knows_where_it_was_made(tmp_path: Path) -> None:
    for name, content in tree(render(tmp_path, stage())).items():
        assert str(tmp_path).encode() not in content, name
        assert str(Path.home()).encode() not in content, name


def test_options_of_the_repository_reach_their_fields(tmp_path: Path) -> None:
    parsed = configs(
        tmp_path,
        stage(
            build=BuildSection(max_batch_size=7),
            max_queue_size=64,
            max_queue_delay_microseconds=250,
            decoupled=False,
            preprocessing_instances=2,
            postprocessing_instances=3,
            bls_instances=4,
            add_special_tokens=False,
            skip_special_tokens=False,
            accumulate_tokens=True,
            enable_kv_cache_reuse=False,
            max_tokens_in_paged_kv_cache=4096,
        ),
    )
    assert {config.max_batch_size for config in parsed.values()} == {7}
    for name in ("preprocessing", "tensorrt_llm"):
        batching = parsed[name].dynamic_batching
        assert batching.default_queue_policy.max_queue_size == 64
        assert batching.max_queue_delay_microseconds == 250
        assert list(batching.preferred_batch_size) == [7]
    assert [parsed[name].instance_group[0].count for name in MODELS if name != "ensemble"] == [
        2,
        1,
        3,
        4,
    ]
    for name in ("tensorrt_llm", "tensorrt_llm_bls"):
        assert not parsed[name].model_transaction_policy.decoupled
    for name in ("preprocessing", "postprocessing", "tensorrt_llm_bls"):
        assert parameters(parsed[name])["tokenizer_dir"] == "preprocessing/1/tokenizer"
    assert parameters(parsed["preprocessing"])["add_special_tokens"] == "false"
    assert parameters(parsed["postprocessing"])["skip_special_tokens"] == "false"
    assert parameters(parsed["tensorrt_llm_bls"])["accumulate_tokens"] == "true"
    engine = parameters(parsed["tensorrt_llm"])
    assert engine["enable_kv_cache_reuse"] == "false"
    assert engine["max_tokens_in_paged_kv_cache"] == "4096"
    assert engine["kv_cache_free_gpu_mem_fraction"] == "0.2"
    assert engine["gpt_model_type"] == "inflight_fused_batching"


def test_models_that_stream_are_decoupled_by_default(tmp_path: Path) -> None:
    parsed = configs(tmp_path, stage())
    assert parsed["tensorrt_llm"].model_transaction_policy.decoupled
    assert parsed["tensorrt_llm_bls"].model_transaction_policy.decoupled


def test_twin_is_a_python_model_whose_paths_lie_in_the_repository(tmp_path: Path) -> None:
    repository_dir = render(tmp_path, stage("openvino"))
    config = read_model_configs(repository_dir)["tensorrt_llm"]
    assert config.backend == "python"
    engine_dir = repository_dir / parameters(config)["gpt_model_path"]
    assert (engine_dir / "engine.json").read_bytes() == b"{}"
    assert (repository_dir / "tensorrt_llm/1/model.py").is_file()
    assert (repository_dir / "preprocessing/1/tokenizer/tokenizer.json").is_file()


def test_every_model_has_the_shared_modules_that_it_imports(tmp_path: Path) -> None:
    import ast
    import sys

    repository_dir = render(tmp_path, stage())
    installed = {"numpy", "tokenizers", "openvino", "openvino_genai"}
    given_by_triton = {"triton_python_backend_utils"}
    for path in repository_dir.glob("*/1/*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            for name in (name.split(".")[0] for name in names):
                known = sys.stdlib_module_names | installed | given_by_triton
                assert name in known or path.with_name(f"{name}.py").is_file(), (path, name)


@pytest.mark.parametrize("mount_root", ["/models", "/srv/größe/", "/a b"])
def test_cpp_backend_finds_its_engine_below_the_mount_root(tmp_path: Path, mount_root: str) -> None:
    repository_dir = render(tmp_path, stage("trtllm", mount_root=mount_root))
    config = read_model_configs(repository_dir)["tensorrt_llm"]
    assert config.backend == "tensorrtllm"
    path = Path(parameters(config)["gpt_model_path"])
    assert path == Path(mount_root) / "tensorrt_llm/1/engine"
    assert list(repository_dir.glob("tensorrt_llm/**/*.py")) == []


def test_tokenizer_outside_the_repository_is_named_and_not_copied(tmp_path: Path) -> None:
    repository_dir = render(tmp_path, stage(tokenizer_dir="/opt/tokenizer"))
    parsed = read_model_configs(repository_dir)
    for name in ("preprocessing", "postprocessing", "tensorrt_llm_bls"):
        assert parameters(parsed[name])["tokenizer_dir"] == "/opt/tokenizer"
    assert list(repository_dir.rglob("tokenizer.json")) == []


def test_engine_is_linked_and_read_only(tmp_path: Path) -> None:
    repository_dir = render(tmp_path, stage())
    path = repository_dir / "tensorrt_llm/1/engine/openvino_model.bin"
    assert path.samefile(tmp_path / "compile/openvino_model.bin")
    assert path.stat().st_mode & 0o222 == 0


@pytest.mark.parametrize(
    "value", [EVIL, "a\nb", "back\\slash", "größe-模型 😀", "# no comment", "'single'", "\x01\x7f"]
)
def test_no_value_can_leave_its_field(tmp_path: Path, value: str) -> None:
    plain = configs(tmp_path / "plain", stage(tokenizer_dir="/plain"))
    parsed = configs(tmp_path / "odd", stage(tokenizer_dir=value))
    for name in ("preprocessing", "postprocessing", "tensorrt_llm_bls"):
        assert parameters(parsed[name])["tokenizer_dir"] == value
        parsed[name].parameters["tokenizer_dir"].string_value = "/plain"
    assert parsed == plain


def test_mount_root_cannot_leave_its_field(tmp_path: Path) -> None:
    parsed = configs(tmp_path, stage("trtllm", mount_root=f"/{EVIL}"))
    assert parsed["tensorrt_llm"].backend == "tensorrtllm"
    path = parameters(parsed["tensorrt_llm"])["gpt_model_path"]
    assert path == f"/{EVIL}/tensorrt_llm/1/engine"


@settings(max_examples=200, deadline=None, database=None, derandomize=True)
@given(value=st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")))
def test_any_text_reads_back_from_its_quoted_form(value: str) -> None:
    text = f"name: {pbtxt_string(value)}"
    assert text_format.Parse(text, model_config_pb2.ModelConfig()).name == value


def test_value_with_a_nul_byte_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RenderError) as caught:
        render(tmp_path, stage(tokenizer_dir="a\0b"))
    assert printed(caught.value) == ("error: 'a\\x00b' contains a NUL byte", 6)


def test_value_that_looks_like_a_placeholder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RenderError) as caught:
        render(tmp_path, stage(tokenizer_dir="${tokenizer_dir}"))
    path = tmp_path / "repository/postprocessing/config.pbtxt"
    text, code = printed(caught.value)
    assert text.startswith(f"error: {path}:")
    assert "still holds a template marker" in text
    assert "tokenizer_dir" in text
    assert code == 6


def test_unknown_placeholder_in_a_template_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copied = shutil.copytree(templates_dir(), tmp_path / "templates")
    path = copied / "ensemble/config.pbtxt.jinja"
    path.write_text(path.read_text() + "{{ model.max_batch_sise }}\n")
    monkeypatch.setattr(render_module, "templates_dir", lambda: copied)
    with pytest.raises(RenderError) as caught:
        render(tmp_path, stage())
    assert printed(caught.value) == (
        "error: the template ensemble/config.pbtxt.jinja cannot be rendered\n"
        "  why:  'dict object' has no attribute 'max_batch_sise'",
        6,
    )


def test_checkpoint_without_a_tokenizer_is_refused(tmp_path: Path) -> None:
    (tmp_path / "download").mkdir()
    with pytest.raises(CheckpointError) as caught:
        stage().run(tmp_path, {"download": tmp_path / "download"}, SilentReporter())
    assert printed(caught.value) == (
        "error: the checkpoint has no tokenizer.json, which the repository's models read\n"
        "  why:  the compile stage of runtime openvino converts one; render does not\n"
        "  try:  forge build MODEL --runtime openvino",
        4,
    )


@pytest.mark.parametrize(
    "changed",
    [
        stage(max_queue_size=1),
        stage(build=BuildSection(max_batch_size=1)),
        stage(trtllm_version="1.2.0"),
        stage("trtllm"),
        replace(stage(), engine_model=replace(stage().engine_model, text_files={"a": "b"})),
        replace(stage(), engine_model=replace(stage().engine_model, checkpoint_dir="a")),
        replace(stage(), engine_model=replace(stage().engine_model, python_files=())),
        replace(stage(), engine_model=replace(stage().engine_model, parameters={})),
    ],
    ids=[
        *("option", "batch", "release", "runtime"),
        *("text-files", "checkpoint", "python-files", "engine-parameters"),
    ],
)
def test_each_setting_alone_changes_what_render_depends_on(changed: RenderStage) -> None:
    assert changed.parameters != stage().parameters


def test_changed_template_changes_what_render_depends_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = stage().parameters
    copied = shutil.copytree(templates_dir(), tmp_path / "templates")
    path = copied / "preprocessing/1/model.py"
    path.write_text(path.read_text() + "\n")
    monkeypatch.setattr(render_module, "templates_dir", lambda: copied)
    assert stage().parameters != before


@pytest.mark.parametrize("release", ["1.1", "1.2"], ids=["nearest", "own"])
def test_changed_contract_changes_what_render_depends_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, release: str
) -> None:
    before = stage(trtllm_version=release).parameters
    copied = shutil.copytree(data_path("contracts"), tmp_path / "data" / "contracts")
    path = copied / "1.2.json"
    path.write_text(path.read_text() + "\n")
    monkeypatch.setattr(contract_module, "data_path", lambda name: tmp_path / "data" / name)
    assert stage(trtllm_version=release).parameters != before
