"""When a bench counts as slower than an earlier one."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from trtllm_forge.bench.comparison import Line, compare_documents, read_bench
from trtllm_forge.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

LOAD = "ensemble, http, 4 at once"


def bench(**changes: Any) -> dict[str, Any]:
    times = {"p50": 10.0, "p95": 20.0}
    load = {
        "requests": 32,
        "errors": {},
        "output_tokens_per_s": 100.0,
        "requests_per_s": 2.0,
        "ttft_ms": times,
        "itl_ms": times,
        "tpot_ms": times,
        "e2e_ms": times,
        **changes,
    }
    return {"schema": 1, "bench": {LOAD: load}, "environment": {"cpu": "A", "cores": 2}}


def verdicts(now: dict[str, Any], *, noise: float = 0.05) -> dict[str, str]:
    comparison = compare_documents(bench(), now, noise=noise)
    return {line.figure: line.verdict for line in comparison.lines if line.verdict != "shown"}


SAME = dict.fromkeys(
    ("output_tokens_per_s", "ttft_ms p50", "itl_ms p50", "tpot_ms p50", "e2e_ms p50"), "same"
)


@pytest.mark.parametrize(
    ("changes", "figure", "verdict"),
    [
        ({"ttft_ms": {"p50": 10.4, "p95": 20.0}}, "ttft_ms p50", "same"),
        ({"ttft_ms": {"p50": 10.6, "p95": 20.0}}, "ttft_ms p50", "slower"),
        ({"e2e_ms": {"p50": 9.0, "p95": 20.0}}, "e2e_ms p50", "faster"),
        ({"output_tokens_per_s": 96.0}, "output_tokens_per_s", "same"),
        ({"output_tokens_per_s": 95.0}, "output_tokens_per_s", "slower"),
        ({"output_tokens_per_s": 106.0}, "output_tokens_per_s", "faster"),
        ({"output_tokens_per_s": 0.0}, "output_tokens_per_s", "slower"),
    ],
    ids=["within", "later", "sooner", "within-rate", "less", "more", "nothing"],
)
def test_a_figure_beyond_the_noise_is_told_and_no_other(
    changes: dict[str, Any], figure: str, verdict: str
) -> None:
    assert verdicts(bench(**changes)) == {**SAME, figure: verdict}


def test_a_wider_noise_band_lets_more_pass() -> None:
    assert verdicts(bench(output_tokens_per_s=80.0), noise=0.3) == SAME


def test_a_95th_percentile_is_shown_and_not_judged() -> None:
    comparison = compare_documents(bench(), bench(ttft_ms={"p50": 10.0, "p95": 90.0}), noise=0.05)

    wanted = Line(
        load=LOAD, figure="ttft_ms p95", before=20.0, now=90.0, change=3.5, verdict="shown"
    )
    assert wanted in comparison.lines
    assert not comparison.is_slower


def test_requests_that_fail_now_are_worse() -> None:
    now = bench(requests=28, errors={"timeout": {"count": 4, "first": "no answer"}})

    assert verdicts(now)["share of failed requests"] == "slower"


def test_the_error_names_each_figure_with_both_values_and_exits_8() -> None:
    error = compare_documents(bench(), bench(output_tokens_per_s=50.0), noise=0.05).error()

    assert error.what == "1 figure is worse than before by more than 5%"
    assert error.why == f"{LOAD}: output_tokens_per_s 100 -> 50"
    assert error.exit_code == 8


def test_loads_of_one_alone_and_another_machine_are_told() -> None:
    now = bench()
    now["bench"]["ensemble, grpc, 4 at once"] = now["bench"][LOAD]
    now["environment"] = {"cpu": "B", "cores": 2}

    comparison = compare_documents(bench(), now, noise=0.05)

    assert comparison.unmatched == ("ensemble, grpc, 4 at once",)
    assert comparison.environment == ('cpu: "A" -> "B"',)


def test_benches_without_a_common_load_are_refused() -> None:
    other = {**bench(), "bench": {"x": {}}}

    with pytest.raises(ConfigError) as caught:
        compare_documents(bench(), other, noise=0.05)

    assert caught.value.what == "the two benches have no load in common"
    assert caught.value.why == f"before: {LOAD}, now: x"


def test_a_bench_is_read_back(tmp_path: Path) -> None:
    path = tmp_path / "bench.json"
    path.write_text(json.dumps(bench()))

    assert read_bench(path) == bench()


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("{", "it is not JSON: "),
        ("[]", "it has no figures under the key bench"),
        ('{"schema": 1, "probes": []}', "it has no figures under the key bench"),
        ('{"schema": 2, "bench": {}}', "its schema is 2, this forge reads 1"),
    ],
    ids=["cut", "list", "probe", "newer"],
)
def test_another_document_is_refused(tmp_path: Path, text: str, why: str) -> None:
    path = tmp_path / "a bench.json"
    path.write_text(text)

    with pytest.raises(ConfigError) as caught:
        read_bench(path)

    assert caught.value.what == f"{path} is no document of forge bench"
    assert caught.value.why.startswith(why)
    assert caught.value.hint == f"forge bench --json > '{path}'"


def test_a_document_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        read_bench(tmp_path / "none.json")

    assert caught.value.what == f"{tmp_path}/none.json cannot be read"
    assert caught.value.why == "no such file or directory"
