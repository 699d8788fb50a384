"""The dashboard and the alert rules ask for what a real Triton with the twin writes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.process.recording import eventually
from tests.promql import Wanted, queries, selectors

if TYPE_CHECKING:
    from prometheus_client.samples import Sample

    from tests.triton.served import Served

pytestmark = pytest.mark.triton

# What neither this Triton nor the twin writes: TensorRT-LLM's histograms, and what needs a GPU.
ABSENT = ("nv_llm_", "nv_gpu_")
# Prometheus adds it, and says itself whether a target answers.
ADDED = {"instance": "127.0.0.1:8002", "job": "triton"}


@pytest.fixture(scope="module")
def samples(twin: Served) -> list[Sample]:
    """What the metrics of the twin are after a request."""
    answer = twin.generate(text_input="def add(a, b):", max_tokens=8)
    assert "text_output" in answer, answer
    found: list[Sample] = []

    def is_counted() -> bool:
        text = httpx.get(twin.document["metrics"], timeout=20).text
        found[:] = samples_of(text)
        return any(s.name == "forge_tokens" and s.value > 0 for s in found)

    assert eventually(is_counted)
    return found


def samples_of(text: str) -> list[Sample]:
    """Return the samples by the names in the text: the parser ends those of counters in _total."""
    return [
        sample._replace(name=family.name if family.type == "counter" else sample.name)
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    ]


def is_there(wanted: Wanted, samples: list[Sample]) -> bool:
    if wanted.name == "up":
        return all(label in ADDED for label, _, _ in wanted.matchers)
    return any(wanted.takes(sample.name, {**ADDED, **sample.labels}) for sample in samples)


@pytest.mark.parametrize("name", queries())
def test_every_selector_of_a_query_finds_samples(name: str, samples: list[Sample]) -> None:
    wanted = [w for w in selectors(queries()[name]) if not w.name.startswith(ABSENT)]

    assert [w for w in wanted if not is_there(w, samples)] == []
