from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import pytest
from tritonclient.grpc import model_config_pb2

from tests.checkpoint_builder import write_files
from tests.rendering import (
    LLMAPI,
    MODEL_YAML,
    RUNTIMES,
    Notes,
    configs,
    contract_models,
    llmapi_stage,
    parameter_names,
    parameters,
    parse_configs,
    render,
    stage,
    tensors_of,
    tree,
    without_false,
)
from tests.small_stage import printed
from trtllm_forge.build.stages import render as render_module
from trtllm_forge.errors import RenderError
from trtllm_forge.files.resources import templates_dir
from trtllm_forge.runtimes import EngineModel
from trtllm_forge.triton.repository.contract import known_releases
from trtllm_forge.triton.repository.names import MODELS
from trtllm_forge.triton.repository.repository import read_model_configs

if TYPE_CHECKING:
    from pathlib import Path

engine_releases = pytest.mark.parametrize("release", known_releases())
llmapi_releases = pytest.mark.parametrize("release", known_releases("llmapi"))
ENGINE = json.dumps(
    {
        "max_batch_size": 12,
        "max_beam_width": 3,
        "dtype": "bfloat16",
        "logits_dtype": "float16",
    }
)


@dataclass(frozen=True, kw_only=True)
class Rendered:
    """A repository of one release, what was noted, and what the release's file says."""

    repository_dir: Path
    notes: list[str]
    models: Any


@pytest.fixture(
    scope="module",
    params=[(runtime, release) for release in known_releases() for runtime in RUNTIMES],
    ids=lambda case: "-".join(case),
)
def rendered(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Rendered:
    runtime, release = request.param
    reporter = Notes()
    repository_dir = render(
        tmp_path_factory.mktemp("rendered"),
        stage(runtime, trtllm_version=release),
        reporter=reporter,
    )
    return Rendered(
        repository_dir=repository_dir, notes=reporter.notes, models=contract_models(release)
    )


def test_tensors_and_wires_of_every_model_are_those_of_the_release(rendered: Rendered) -> None:
    parsed, models = parse_configs(rendered.repository_dir), rendered.models
    assert set(parsed) == set(models) == set(MODELS)
    for name in MODELS:
        assert tensors_of(parsed[name].input) == without_false(models[name]["inputs"]), name
        assert tensors_of(parsed[name].output) == without_false(models[name]["outputs"]), name
    steps = parsed["ensemble"].ensemble_scheduling.step
    assert [
        {"model": s.model_name, "inputs": dict(s.input_map), "outputs": dict(s.output_map)}
        for s in steps
    ] == models["ensemble"]["steps"]
    assert [step.model_name for step in steps] == [
        "preprocessing",
        "tensorrt_llm",
        "postprocessing",
    ]
    assert {step.model_version for step in steps} == {-1}


def test_parameters_of_a_release_stand_in_its_order_before_those_of_forge(
    rendered: Rendered,
) -> None:
    for name, model in rendered.models.items():
        found = parameter_names(rendered.repository_dir / name / "config.pbtxt")
        known = list(model["parameters"])
        assert found[: len(known)] == known, name
    assert rendered.notes == []


@llmapi_releases
def test_llmapi_layout_is_the_one_model_of_the_release(tmp_path: Path, release: str) -> None:
    parsed = configs(tmp_path, llmapi_stage(release))
    model = contract_models(release, "llmapi")["tensorrt_llm"]
    assert list(parsed) == ["tensorrt_llm"]
    config = parsed["tensorrt_llm"]
    assert tensors_of(config.input) == without_false(model["inputs"])
    assert tensors_of(config.output) == without_false(model["outputs"])
    assert config.backend == "python"
    assert config.max_batch_size == 0
    assert config.model_transaction_policy.decoupled
    assert [(group.count, group.kind) for group in config.instance_group] == [
        (1, model_config_pb2.ModelInstanceGroup.KIND_CPU)
    ]
    assert parameters(config) == {}


def test_llmapi_layout_holds_its_files_and_the_checkpoint_and_nothing_else(tmp_path: Path) -> None:
    rendered = llmapi_stage()
    repository_dir = render(tmp_path, rendered)
    files = tree(repository_dir)
    del files["tensorrt_llm/config.pbtxt"]
    assert files == {
        "tensorrt_llm/1/model.yaml": MODEL_YAML.encode(),
        "tensorrt_llm/1/checkpoint/tokenizer.json": b"{}",
        "tensorrt_llm/1/checkpoint/tokenizer_config.json": b"{}",
    }
    assert rendered.outputs == ("tensorrt_llm/config.pbtxt",)


def test_checkpoint_of_the_llmapi_layout_keeps_the_permissions_of_its_owner(tmp_path: Path) -> None:
    repository_dir = render(tmp_path, llmapi_stage())
    path = tmp_path / "download/tokenizer.json"
    assert path.stat().st_mode & 0o200
    assert (repository_dir / "tensorrt_llm/1/checkpoint/tokenizer.json").samefile(path)


def test_llmapi_layout_takes_its_python_files_from_its_own_templates(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copied = shutil.copytree(templates_dir(), tmp_path / "templates")
    write_files(copied, {"llmapi/tensorrt_llm/1/model.py": b"x = 1\n"})
    monkeypatch.setattr(render_module, "templates_dir", lambda: copied)
    files = ("llmapi/tensorrt_llm/1/model.py",)
    rendered = llmapi_stage(engine_model=replace(LLMAPI, python_files=files))
    found = tree(render(tmp_path, rendered))
    assert found["tensorrt_llm/1/model.py"] == b"x = 1\n"
    assert [name for name in found if name.endswith(".py")] == ["tensorrt_llm/1/model.py"]


@engine_releases
def test_engine_gets_the_parameters_of_the_release_in_its_order(
    tmp_path: Path, release: str
) -> None:
    wanted = contract_models(release)["tensorrt_llm"]["parameters"]
    everything = {key: f"value of {key}" for key in (*reversed(wanted), "stream_interval_ms")}
    engine_model = EngineModel(backend="tensorrtllm", parameters=everything)
    repository_dir = render(
        tmp_path, replace(stage("trtllm", trtllm_version=release), engine_model=engine_model)
    )
    path = repository_dir / "tensorrt_llm/config.pbtxt"
    assert parameter_names(path) == wanted
    assert parameters(read_model_configs(repository_dir)["tensorrt_llm"]) == {
        key: everything[key] for key in wanted
    }


def test_parameter_that_the_release_does_not_know_is_left_out_and_named(tmp_path: Path) -> None:
    engine_model = EngineModel(
        backend="tensorrtllm",
        parameters={
            "lookahead_window_size": "4",
            "guided_decoding_backend": "xgrammar",
            "gpt_model_type": "inflight_fused_batching",
        },
    )
    rendered = replace(stage("trtllm", trtllm_version="0.16.0"), engine_model=engine_model)
    reporter = Notes()
    repository_dir = render(tmp_path, rendered, reporter=reporter)
    config = read_model_configs(repository_dir)["tensorrt_llm"]
    unset = dict.fromkeys(contract_models("0.16")["tensorrt_llm"]["parameters"], "")
    assert parameters(config) == unset | {"gpt_model_type": "inflight_fused_batching"}
    assert reporter.notes == [
        "TensorRT-LLM 0.16 has no guided_decoding_backend: omitted from tensorrt_llm",
        "TensorRT-LLM 0.16 has no lookahead_window_size: omitted from tensorrt_llm",
    ]


@pytest.mark.parametrize(
    ("release", "is_queued"), [("0.16", False), ("0.18", False), ("0.19", True)]
)
def test_prompts_wait_to_be_batched_where_the_release_says_so(
    tmp_path: Path, release: str, is_queued: bool
) -> None:
    config = configs(tmp_path, stage(trtllm_version=release))["preprocessing"]
    assert config.HasField("dynamic_batching") is is_queued


def test_repository_takes_its_limits_and_types_from_the_engine(tmp_path: Path) -> None:
    parsed = configs(tmp_path, stage("trtllm"), engine=ENGINE)
    assert {config.max_batch_size for config in parsed.values()} == {12}
    assert parameters(parsed["tensorrt_llm"])["max_beam_width"] == "3"
    types = {
        (name, tensor.name): model_config_pb2.DataType.Name(tensor.data_type)
        for name, config in parsed.items()
        for tensor in (*config.input, *config.output)
        if ("logits" in tensor.name and not tensor.name.startswith(("return_", "use_")))
        or tensor.name == "prompt_embedding_table"
    }
    assert types == {
        ("tensorrt_llm", "draft_logits"): "TYPE_FP16",
        ("tensorrt_llm", "context_logits"): "TYPE_FP16",
        ("tensorrt_llm", "generation_logits"): "TYPE_FP16",
        ("tensorrt_llm", "prompt_embedding_table"): "TYPE_BF16",
        ("ensemble", "context_logits"): "TYPE_FP16",
        ("ensemble", "generation_logits"): "TYPE_FP16",
        ("ensemble", "prompt_embedding_table"): "TYPE_BF16",
        ("tensorrt_llm_bls", "context_logits"): "TYPE_FP16",
        ("tensorrt_llm_bls", "generation_logits"): "TYPE_FP16",
        ("tensorrt_llm_bls", "prompt_embedding_table"): "TYPE_BF16",
    }


def test_engine_of_the_twin_decides_nothing_about_tensors(tmp_path: Path) -> None:
    plain = configs(tmp_path / "plain", stage("openvino"))
    assert configs(tmp_path / "other", stage("openvino"), engine=ENGINE) == plain


@pytest.mark.parametrize(
    ("engine", "text"),
    [
        ("{", "{path} is not JSON\n  why:  Expecting property name enclosed in double quotes"),
        ("[]", "{path} is not a JSON object\n  why:  it is a list"),
        (
            '{"max_batch_size": 0}',
            "{path} has max_batch_size 0\n  why:  it must be a whole number, 1 or more",
        ),
        (
            '{"max_beam_width": "2"}',
            "{path} has max_beam_width '2'\n  why:  it must be a whole number, 1 or more",
        ),
        (
            '{"logits_dtype": "bfloat16"}',
            "{path} has logits_dtype 'bfloat16'\n  why:  it must be one of float32, float16",
        ),
        (
            '{"dtype": "fp8"}',
            "{path} has dtype 'fp8'\n  why:  it must be one of float32, float16, bfloat16",
        ),
    ],
    ids=["no-json", "no-object", "batch", "beams", "logits", "dtype"],
)
def test_engine_that_says_what_cannot_be_is_refused(tmp_path: Path, engine: str, text: str) -> None:
    with pytest.raises(RenderError) as caught:
        render(tmp_path, stage("trtllm"), engine=engine)
    found, code = printed(caught.value)
    wanted = "error: " + text.replace("{path}", str(tmp_path / "compile/engine.json"))
    # Python words the place in the JSON differently from release to release.
    assert (found.startswith(wanted) if engine == "{" else found == wanted, code) == (True, 6)
