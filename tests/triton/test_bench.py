"""The bench against the served twin: both wires, every layer, and the exact twin's counts."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tests.triton.served import Served
    from tests.twin import TwinWorkshop

pytestmark = pytest.mark.triton

LOADS = ("--concurrency", "2", "--requests", "6", "--output-tokens", "12", "--json")


def bench(workshop: TwinWorkshop, twin: Served, *arguments: str) -> dict[str, Any]:
    address = ("--http", str(twin.document["http"]), "--grpc", twin.grpc)
    done = workshop.forge("bench", *address, *LOADS, *arguments)
    assert done.returncode == 0, done.stderr + done.stdout
    document: dict[str, Any] = json.loads(done.stdout)
    return document


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_every_layer_answers_with_the_tokens_asked_for(
    workshop: TwinWorkshop, twin: Served, protocol: str
) -> None:
    document = bench(workshop, twin, "--layers", "--protocol", protocol)

    models = ("tensorrt_llm", "ensemble", "tensorrt_llm_bls")
    assert list(document["bench"]) == [f"{model}, {protocol}, 2 at once" for model in models]
    for load in document["bench"].values():
        assert (load["requests"], load["errors"], load["output_tokens"]) == (6, {}, 12)
        assert load["tokens_are_counted"]
        assert 0 < load["ttft_ms"]["p50"] <= load["e2e_ms"]["p50"]


def test_a_fim_prompt_of_the_length_asked_for_is_made_with_the_served_tokenizer(
    workshop: TwinWorkshop, twin: Served
) -> None:
    fim = bench(workshop, twin, "--task", "fim")
    synthetic = bench(workshop, twin, "--prompt-tokens", "40")

    (load,) = synthetic["bench"].values()
    assert load["input_tokens"] == 40
    assert fim["environment"]["repository"]["runtime"] == "openvino"
    assert next(iter(fim["bench"].values()))["requests"] == 6


def test_the_prefix_of_the_twin_is_measured_cold_and_warm(
    workshop: TwinWorkshop, twin: Served
) -> None:
    reuse = bench(workshop, twin, "--prefix-reuse")["prefix_reuse"]

    assert reuse["cold_ttft_ms"]["count"] == reuse["warm_ttft_ms"]["count"] == 8
    assert reuse["warm_to_cold"] > 0
