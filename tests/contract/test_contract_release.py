from __future__ import annotations

import pytest

from tests.small_stage import printed
from trtllm_forge.errors import ConfigError
from trtllm_forge.triton.contract import known_releases, read_contract


def test_releases_are_listed_oldest_first() -> None:
    assert known_releases() == ("1.2",)


@pytest.mark.parametrize("version", ["1.2", "1.2.0", "1.2.1", "1.2.0rc3"])
def test_version_is_looked_up_by_its_first_two_numbers(version: str) -> None:
    assert read_contract(version).release == "1.2"


@pytest.mark.parametrize("version", ["0.16.0", "1.20.1", "2.0"])
def test_unknown_release_is_refused_by_name(version: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read_contract(version)
    assert printed(caught.value) == (
        f"error: the Triton models of TensorRT-LLM {version} are not known\n"
        "  why:  this forge knows release 1.2\n"
        "  try:  --trtllm-version 1.2",
        2,
    )


@pytest.mark.parametrize("release", known_releases())
def test_every_tensor_has_an_element_type_that_triton_knows(release: str) -> None:
    contract = read_contract(release)
    tensors = [
        tensor for model in contract.models.values() for tensor in (*model.inputs, *model.outputs)
    ]
    assert {tensor.data_type for tensor in tensors} <= {
        *(f"TYPE_{name}" for name in ("BOOL", "STRING", "FP16", "FP32", "UINT8", "UINT64")),
        *("TYPE_INT32", "TYPE_INT64", "TYPE_BF16"),
    }


@pytest.mark.parametrize("release", known_releases())
def test_no_model_names_a_tensor_twice(release: str) -> None:
    for model in read_contract(release).models.values():
        for tensors in (model.inputs, model.outputs):
            names = [tensor.name for tensor in tensors]
            assert len(set(names)) == len(names)


@pytest.mark.parametrize("release", known_releases())
def test_contract_says_where_it_is_from_and_how_sure_it_is(release: str) -> None:
    contract = read_contract(release)
    assert contract.confidence
    assert contract.source
