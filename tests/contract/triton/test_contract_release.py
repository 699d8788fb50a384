from __future__ import annotations

import importlib.util
import json
from typing import Any

import numpy as np
import pytest

from tests.small_stage import printed
from tests.template_modules import template_module
from trtllm_forge.errors import ConfigError
from trtllm_forge.files.resources import data_path, templates_dir
from trtllm_forge.triton.repository.contract import (
    ElementTypes,
    Layout,
    ReleaseContract,
    known_releases,
    read_contract,
)

ENGINE_RELEASES = ("0.16", "0.17", "0.18", "0.19", "0.20", "0.21", "1.0", "1.1", "1.2")
LLMAPI_RELEASES = ("1.0", "1.1", "1.2", "1.3")
ALL: list[tuple[str, Layout]] = [
    *((release, "engine") for release in ENGINE_RELEASES),
    *((release, "llmapi") for release in LLMAPI_RELEASES),
]
every_release = pytest.mark.parametrize(
    ("release", "layout"), ALL, ids=[f"{layout}-{release}" for release, layout in ALL]
)
engine_releases = pytest.mark.parametrize("release", ENGINE_RELEASES)


def inputs_of(contract: ReleaseContract, model: str) -> set[str]:
    return {tensor.name for tensor in contract.models[model].inputs}


def outputs_of(contract: ReleaseContract, model: str) -> set[str]:
    return {tensor.name for tensor in contract.models[model].outputs}


def bls_model() -> Any:
    """Import the BLS model, which has the file name of the engine's."""
    for name in ("triton_python_backend_utils", "model_folder", "detokenizer", "stop_request"):
        template_module(name)
    path = templates_dir() / "tensorrt_llm_bls/1/model.py"
    spec = importlib.util.spec_from_file_location("tests.bls_model", path)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_releases_of_each_layout_are_listed_oldest_first() -> None:
    assert known_releases() == ENGINE_RELEASES
    assert known_releases("llmapi") == LLMAPI_RELEASES


@pytest.mark.parametrize(
    ("version", "release"),
    [
        ("0.16.0", "0.16"),
        ("0.17.0.post1", "0.17"),
        ("1.0.3.2510", "1.0"),
        ("1.2", "1.2"),
        ("1.2.1", "1.2"),
        ("1.2.0rc3", "1.2"),
    ],
)
def test_version_is_looked_up_by_its_first_two_numbers(version: str, release: str) -> None:
    assert read_contract(version).release == release


@pytest.mark.parametrize("version", ["0.15.0", "1.20.1", "1.3.0rc22", "2.0"])
def test_unknown_release_is_refused_by_name(version: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read_contract(version)
    assert printed(caught.value) == (
        f"error: the Triton models of TensorRT-LLM {version} are not known\n"
        "  why:  this forge knows release 0.16, 0.17, 0.18, 0.19, 0.20, 0.21, 1.0, 1.1, 1.2\n"
        "  try:  --trtllm-version 1.2",
        2,
    )


@pytest.mark.parametrize("version", ["0.21.0", "1.4.0rc0"])
def test_release_without_an_llmapi_model_is_refused_by_name(version: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read_contract(version, "llmapi")
    assert printed(caught.value) == (
        f"error: the llmapi Triton model of TensorRT-LLM {version} is not known\n"
        "  why:  this forge knows release 1.0, 1.1, 1.2, 1.3\n"
        "  try:  --trtllm-version 1.3",
        2,
    )


@every_release
def test_contract_says_where_it_is_from_and_how_sure_it_is(release: str, layout: Layout) -> None:
    contract = read_contract(release, layout)
    assert (contract.release, contract.layout) == (release, layout)
    assert contract.source.startswith(("triton-inference-server/", "NVIDIA/TensorRT-LLM@"))
    assert contract.reason
    is_exact = layout == "engine" and release in {"0.16", "0.18", "0.19"}
    assert contract.confidence == ("exact" if is_exact else "nearest")


@pytest.mark.parametrize(
    ("release", "layout", "nearest"),
    [
        ("0.17", "engine", "0.18"),
        ("0.21", "engine", "0.20"),
        ("1.1", "engine", "1.2"),
        ("1.0", "llmapi", "1.2"),
        ("1.1", "llmapi", "1.2"),
    ],
)
def test_release_that_could_not_be_read_has_the_models_of_the_nearest(
    release: str, layout: Layout, nearest: str
) -> None:
    contract = read_contract(release, layout)
    assert contract.models == read_contract(nearest, layout).models
    assert contract.sha256 != read_contract(nearest, layout).sha256


@every_release
def test_every_tensor_has_an_element_type_that_triton_knows(release: str, layout: Layout) -> None:
    contract = read_contract(release, layout)
    tensors = [
        tensor for model in contract.models.values() for tensor in (*model.inputs, *model.outputs)
    ]
    assert {tensor.data_type for tensor in tensors} <= {
        *(f"TYPE_{name}" for name in ("BOOL", "STRING", "FP16", "FP32", "UINT8", "UINT64")),
        *("TYPE_INT32", "TYPE_INT64", "TYPE_BF16"),
    }


@every_release
def test_no_model_names_a_tensor_or_parameter_twice(release: str, layout: Layout) -> None:
    for model in read_contract(release, layout).models.values():
        for names in (
            [tensor.name for tensor in model.inputs],
            [tensor.name for tensor in model.outputs],
            list(model.parameters),
        ):
            assert len(set(names)) == len(names)


@every_release
def test_file_of_a_release_names_no_field_that_is_not_read(release: str, layout: Layout) -> None:
    folder = "contracts" if layout == "engine" else "contracts/llmapi"
    document: dict[str, Any] = json.loads(data_path(f"{folder}/{release}.json").read_text())
    head = {"release", "confidence", "reason", "source"}
    assert set(document) in ({*head, "models"}, {*head, "same_as"})
    for model in document.get("models", {}).values():
        assert set(model) <= {"parameters", "dynamic_batching", "inputs", "outputs", "steps"}
        assert model.get("dynamic_batching", "queue") in {"queue", "default"}


@pytest.mark.parametrize(
    ("release", "model", "tensor", "placeholder"),
    [
        ("0.16", "tensorrt_llm", "encoder_input_features", "encoder_input_features"),
        ("0.16", "tensorrt_llm", "context_logits", None),
        ("0.18", "tensorrt_llm", "context_logits", "logits"),
        ("0.18", "tensorrt_llm", "draft_logits", "logits"),
        ("0.18", "ensemble", "generation_logits", "logits"),
        ("0.18", "tensorrt_llm_bls", "generation_logits", "logits"),
        ("1.0", "tensorrt_llm", "prompt_embedding_table", None),
        ("1.2", "tensorrt_llm", "prompt_embedding_table", "prompt_embedding_table"),
        ("1.2", "tensorrt_llm_bls", "prompt_embedding_table", "prompt_embedding_table"),
        ("1.2", "ensemble", "prompt_embedding_table", "prompt_embedding_table"),
    ],
)
def test_engine_decides_a_type_where_the_release_leaves_it_open(
    release: str, model: str, tensor: str, placeholder: str | None
) -> None:
    def data_type(types: ElementTypes) -> str:
        found = read_contract(release, types=types).models[model]
        return next(t.data_type for t in (*found.inputs, *found.outputs) if t.name == tensor)

    for name in ("logits", "prompt_embedding_table", "encoder_input_features"):
        changed = data_type(ElementTypes(**{name: "TYPE_BF16"}))
        wanted = "TYPE_BF16" if name == placeholder else data_type(ElementTypes())
        assert changed == wanted


@engine_releases
def test_seed_and_shortest_answer_have_the_names_of_the_release(release: str) -> None:
    contract = read_contract(release)
    is_old = ENGINE_RELEASES.index(release) <= ENGINE_RELEASES.index("0.19")
    old, new = {"random_seed", "min_length"}, {"seed", "min_tokens"}
    for model in ("ensemble", "tensorrt_llm", "tensorrt_llm_bls"):
        names = inputs_of(contract, model) & (old | new)
        assert names == (old if is_old else new), model


@engine_releases
@pytest.mark.parametrize(
    "types",
    [ElementTypes(), ElementTypes(logits="TYPE_FP16", prompt_embedding_table="TYPE_BF16")],
    ids=["default", "bf16"],
)
def test_ensemble_is_wired_to_tensors_of_equal_type(release: str, types: ElementTypes) -> None:
    contract = read_contract(release, types=types)
    ensemble = contract.models["ensemble"]
    wires = {tensor.name: tensor.data_type for tensor in ensemble.inputs}
    for step in ensemble.steps:
        inputs = {tensor.name: tensor.data_type for tensor in contract.models[step.model].inputs}
        for inner, outer in step.inputs.items():
            assert wires[outer] == inputs[inner], (step.model, inner)
        outputs = {t.name: t.data_type for t in contract.models[step.model].outputs}
        wires |= {outer: outputs[inner] for inner, outer in step.outputs.items()}
    for tensor in ensemble.outputs:
        assert wires[tensor.name] == tensor.data_type, tensor.name


@engine_releases
def test_bls_model_hands_on_or_answers_for_every_input_of_the_release(release: str) -> None:
    contract = read_contract(release)
    bls = bls_model()
    own = {"text_input", "max_tokens", "stream", "exclude_input_in_output", "stop_words"}
    known = {*bls._TO_PREPROCESSING, *bls._TO_ENGINE, *bls._REFUSED, *own}
    assert inputs_of(contract, "tensorrt_llm_bls") <= known
    handed_on = set(bls._TO_ENGINE) & inputs_of(contract, "tensorrt_llm_bls")
    assert {bls._TO_ENGINE[n] for n in handed_on} <= inputs_of(contract, "tensorrt_llm")
    assert set(bls._FROM_PREPROCESSING) <= outputs_of(contract, "preprocessing")
    assert set(bls._FROM_PREPROCESSING.values()) <= inputs_of(contract, "tensorrt_llm")
    passed_on = outputs_of(contract, "tensorrt_llm_bls") - {"text_output"}
    assert passed_on <= outputs_of(contract, "tensorrt_llm")


@engine_releases
def test_twin_reads_seed_and_shortest_answer_by_the_names_of_the_release(release: str) -> None:
    names = inputs_of(read_contract(release), "tensorrt_llm")
    seed = "seed" if "seed" in names else "random_seed"
    shortest = "min_tokens" if "min_tokens" in names else "min_length"
    request = template_module("triton_python_backend_utils").Request(
        {
            "input_ids": np.array([[1, 2]], np.int32),
            "request_output_len": np.array([[5]], np.int32),
            seed: np.array([[7]], np.uint64),
            shortest: np.array([[3]], np.int32),
        }
    )
    reader = template_module("request_reader").RequestReader(
        max_beam_width=1, is_decoupled=True, exclude_input=False
    )
    (generation,) = reader.read(request).generations
    assert (generation.sampling.seed, generation.sampling.min_tokens) == (7, 3)
