"""What a prefix that the server has seen is worth: TTFT behind a cold and a warm one.

Pairs of requests, one at a time. Both of a pair share a long prefix that no other has and go on
differently, so the first computes the whole prompt and the second can reuse the prefix's blocks.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

from trtllm_forge.bench import metrics
from trtllm_forge.bench.answers import read_answer
from trtllm_forge.bench.prompts import task_prompts
from trtllm_forge.errors import ProbeError

if TYPE_CHECKING:
    from collections.abc import Callable

    from trtllm_forge.bench.answers import Reading
    from trtllm_forge.bench.wire import Wire
    from trtllm_forge.files.digest import JsonValue

_PAIRS = 8
_OUTPUT_TOKENS = 4
_PREFIX_CHARACTERS = 2000
_FIRST_LOAD = 1_000_000
"""No load of a run has this number, so no prompt of one starts like a prefix here."""


async def measure_prefix_reuse(
    wire: Wire, encode: Callable[[str, int], bytes], seed: int
) -> dict[str, JsonValue]:
    """Return TTFT behind cold and warm prefixes, and the ratio of their medians.

    Raises:
        ProbeError: A request was not answered.
    """
    cold: list[Reading] = []
    warm: list[Reading] = []
    for pair in range(_PAIRS):
        prefix = prefix_text(seed, pair)
        for readings, tail in ((cold, "def first(value):"), (warm, "class Second:")):
            received = await wire.send(encode(f"{prefix}\n\n{tail}\n", _OUTPUT_TOKENS))
            reading = read_answer(wire, received)
            if reading.failure is not None:
                what = f"a request of --prefix-reuse was {reading.failure.kind}"
                raise ProbeError(what, why=reading.failure.message, hint="forge probe")
            readings.append(reading)
    cold_ms, warm_ms = _ttft_ms(cold), _ttft_ms(warm)
    document: dict[str, JsonValue] = {
        "pairs": _PAIRS,
        "input_tokens": cold[0].input_tokens,
        "cold_ttft_ms": _rounded(cold_ms),
        "warm_ttft_ms": _rounded(warm_ms),
        "warm_to_cold": round(
            metrics.percentile(warm_ms, 0.5) / metrics.percentile(cold_ms, 0.5), 4
        ),
    }
    for name, readings in (("cold", cold), ("warm", warm)):
        blocks = [r.reused_blocks for r in readings if r.reused_blocks is not None]
        if blocks:
            document[f"{name}_reused_kv_blocks"] = sum(blocks) / len(blocks)
    return document


def prefix_text(seed: int, pair: int) -> str:
    """Return a prefix of some hundred tokens of code that no other pair has."""
    prompts = task_prompts("edit", template=None, output_tokens=None, seed=seed)
    text = ""
    number = 0
    while len(text) < _PREFIX_CHARACTERS:
        text += prompts.of(_FIRST_LOAD + pair, number).text + "\n"
        number += 1
    return text[:_PREFIX_CHARACTERS]


def _ttft_ms(readings: list[Reading]) -> list[float]:
    return [1000 * metrics.ttft_s(r.answered) for r in readings if r.answered is not None]


def _rounded(values_ms: list[float]) -> JsonValue:
    found = metrics.distribution(values_ms)
    return {name: round(value, 4) for name, value in asdict(found).items()} if found else None
