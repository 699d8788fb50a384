"""The measuring script: its arithmetic on known values, and one short run of it."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest

from scripts.measure.figures import Figure, Target, median, percentile, short, table
from scripts.measure.streams import LoadPlan, Stream, prompt, rates

pytestmark = pytest.mark.openvino

ROOT = Path(__file__).parents[2]
RUN_DEADLINE_S = 60


@pytest.mark.parametrize(
    ("values", "fraction", "expected"),
    [
        pytest.param([3.0, 1.0, 2.0], 0.5, 2.0, id="middle of three, unordered"),
        pytest.param([1.0, 2.0], 0.5, 1.5, id="between two"),
        pytest.param([0.0, 10.0, 20.0, 30.0, 40.0], 0.95, 38.0, id="p95 of five"),
        pytest.param([7.0], 0.95, 7.0, id="of one"),
        pytest.param([1.0, 2.0], 1.0, 2.0, id="largest"),
    ],
)
def test_percentile_is_linear_between_two_values(
    values: list[float], fraction: float, expected: float
) -> None:
    assert percentile(values, fraction) == pytest.approx(expected)


def test_percentile_of_nothing_is_nan() -> None:
    assert math.isnan(percentile([], 0.5))
    assert math.isnan(median([]))


def test_ratio_is_that_of_the_medians_and_its_spread_that_of_the_rounds() -> None:
    figure = Figure(row=1, what="", mode="", unit="s", ours=(2.0, 9.0, 4.0), other=(4.0, 5.0, 16.0))

    assert figure.result == pytest.approx(4.0 / 5.0)
    assert figure.spread == pytest.approx((0.25, 1.8))
    assert figure.is_met is None


@pytest.mark.parametrize(
    ("comparison", "value", "expected"),
    [("<=", 0.5, True), ("<=", 0.51, False), (">=", 0.5, True), (">=", 0.49, False)],
)
def test_target_holds_at_its_bound(comparison: str, value: float, expected: bool) -> None:
    target = Target(comparison="<=" if comparison == "<=" else ">=", bound=0.5)

    assert target.is_met(value) is expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [(1234.6, "1,235"), (99.96, "100.0"), (12.34, "12.3"), (0.977, "0.98"), (math.nan, "-")],
)
def test_numbers_are_printed_short(value: float, expected: str) -> None:
    assert short(value) == expected


def test_table_prints_ratio_absolutes_target_and_note() -> None:
    figures = [
        Figure(
            row=3,
            what="a by b",
            mode="m",
            unit="tok/s",
            ours=(95.0, 96.0),
            other=(100.0, 100.0),
            target=Target(comparison=">=", bound=0.97),
            note="slow",
        ),
        Figure(
            row=7,
            what="c",
            mode="m",
            unit="ms",
            ours=(40.0,),
            target=Target(comparison="<=", bound=50.0),
        ),
    ]

    assert table(figures).splitlines() == [
        "| row | what   | mode | ours       | against   | result            | target   | met |",
        "|-----|--------|------|------------|-----------|-------------------|----------|-----|",
        "| 3   | a by b | m    | 95.5 tok/s | 100 tok/s | 0.95x (0.95-0.96) | >= 0.97x | no  |",
        "| 7   | c      | m    | 40.0 ms    |           | 40.0 ms           | <= 50 ms | yes |",
        "",
        "- row 3, a by b: slow",
    ]


def test_rates_count_what_came_within_the_window() -> None:
    early = Stream(sent_s=0.0, expected_tokens=6, chunks=[(0.5, 2), (1.1, 2), (1.2, 2)])
    inside = Stream(sent_s=1.0, expected_tokens=4, chunks=[(1.25, 1), (1.45, 3)])
    late = Stream(sent_s=2.5, expected_tokens=4, chunks=[(2.6, 4)])

    found = rates([early, inside, late], 1.0, 2.0)

    assert found.tokens_per_s == pytest.approx(8.0)
    assert found.ttft_p50_ms == pytest.approx(250.0)
    assert found.requests == 1
    assert found.tokens_per_chunk == pytest.approx(2.0)
    # Gaps that end in the window: 0.6, 0.1 and 0.2 s.
    assert found.gap_p95_ms == pytest.approx(percentile([600.0, 100.0, 200.0], 0.95))


def test_tokens_a_front_does_not_report_are_counted_by_the_length_asked_for() -> None:
    stream = Stream(sent_s=0.0, expected_tokens=8, chunks=[(0.1, 1), (0.2, 3)])

    assert rates([stream], 0.0, 1.0).tokens_per_s == pytest.approx(8.0)


def test_requests_of_a_load_do_not_start_in_step() -> None:
    plan = LoadPlan(concurrency=4, output_tokens=96, warm_up_s=1.0, window_s=1.0, first_prompt=0)

    assert [plan.first_length(slot) for slot in range(4)] == [24, 48, 72, 96]
    assert len({prompt(number)[:40] for number in range(100)}) == 100


def test_quick_run_of_one_row_prints_its_table_and_writes_its_document(tmp_path: Path) -> None:
    json_path = tmp_path / "measured.json"
    argv = [sys.executable, "-m", "scripts.measure", "--rows", "7", "--quick"]

    done = subprocess.run(
        [*argv, "--json", str(json_path)],
        cwd=ROOT,
        env={**os.environ, "TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=RUN_DEADLINE_S,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    assert "| 7   | render a repository and read it back |" in done.stdout
    document = json.loads(json_path.read_text())
    assert document["schema"] == 1
    assert [figure["row"] for figure in document["figures"]] == [7]
    assert document["figures"][0]["result"] > 0
    assert list(tmp_path.iterdir()) == [json_path]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("12", "there is no row 12; the rows are 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11"),
        ("one", "'one' is no list of row numbers (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11)"),
        ("9", "row 9 needs --upstream DIR"),
    ],
)
def test_rows_that_do_not_exist_are_refused(rows: str, message: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "scripts.measure", "--rows", rows],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=RUN_DEADLINE_S,
        check=False,
    )

    assert done.returncode == 2
    assert message in done.stderr
