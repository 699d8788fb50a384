"""What the command line's words plan, and which of them it refuses."""

from __future__ import annotations

import itertools
import shlex
from typing import Any

import pytest
from typer.testing import CliRunner

from trtllm_forge.bench.load import Pace, arrival_gaps_s
from trtllm_forge.bench.plan import plan_paces, read_limits
from trtllm_forge.cli.app import app


def paces(**changes: Any) -> tuple[Pace, ...]:
    words: dict[str, Any] = {
        "concurrency": None,
        "rate": None,
        "arrivals": "poisson",
        "warm_up": None,
        "requests": None,
        "duration_s": None,
        "seed": 0,
        **changes,
    }
    return plan_paces(**words)


def test_without_words_three_loads_warm_each_slot_up() -> None:
    assert paces() == (
        Pace(concurrency=1, warm_up=1, requests=16),
        Pace(concurrency=4, warm_up=4, requests=32),
        Pace(concurrency=16, warm_up=16, requests=128),
    )


def test_a_duration_takes_the_place_of_the_number() -> None:
    assert paces(concurrency="2,2", duration_s=3.0, warm_up=0) == (
        Pace(concurrency=2, warm_up=0, duration_s=3.0),
    )


def test_a_rate_makes_one_open_loop() -> None:
    assert paces(rate=5.0, arrivals="constant", seed=4) == (
        Pace(rate=5.0, arrivals="constant", warm_up=1, requests=32, seed=4),
    )


def test_limits_are_read_in_milliseconds() -> None:
    assert read_limits("ttft=200, itl=50") == {"ttft": 0.2, "itl": 0.05}
    assert read_limits(None) == {}


def test_constant_arrivals_are_even() -> None:
    assert list(itertools.islice(arrival_gaps_s(4.0, "constant", 0), 3)) == [0.25] * 3


def test_drawn_arrivals_are_the_same_for_a_seed_and_keep_the_rate() -> None:
    gaps = list(itertools.islice(arrival_gaps_s(50.0, "poisson", 7), 4000))

    assert gaps == list(itertools.islice(arrival_gaps_s(50.0, "poisson", 7), 4000))
    assert gaps != list(itertools.islice(arrival_gaps_s(50.0, "poisson", 8), 4000))
    assert sum(gaps) / len(gaps) == pytest.approx(1 / 50, rel=0.05)


@pytest.mark.parametrize(
    ("line", "text"),
    [
        (
            "--concurrency 1,x",
            "error: --concurrency 1,x is no list of numbers of requests from 1 on\n"
            "  try:  forge bench --concurrency 1,4,16\n",
        ),
        (
            "--concurrency 0",
            "error: --concurrency 0 is no list of numbers of requests from 1 on\n"
            "  try:  forge bench --concurrency 1,4,16\n",
        ),
        (
            "--goodput speed=3",
            "error: --goodput speed=3 has no quantity speed\n"
            "  why:  a limit is one of ttft, itl, gap, tpot, e2e, in milliseconds\n"
            "  try:  forge bench --goodput ttft=200,itl=50\n",
        ),
        (
            "--goodput ttft=-1",
            "error: --goodput ttft=-1 gives ttft the limit '-1', wanted milliseconds above 0\n"
            "  try:  forge bench --goodput ttft=200,itl=50\n",
        ),
        (
            "--requests 4 --duration 2",
            "error: --requests and --duration cannot be given together\n"
            "  try:  forge bench --help\n",
        ),
        (
            "--rate 4 --concurrency 2",
            "error: --rate and --concurrency cannot be given together\n"
            "  try:  forge bench --help\n",
        ),
        (
            "--layers --model ensemble",
            "error: --layers and --model cannot be given together\n  try:  forge bench --help\n",
        ),
        (
            "--prompts a.txt --task edit",
            "error: --prompts and --task cannot be given together\n  try:  forge bench --help\n",
        ),
        (
            "--html nowhere/bench.html",
            "error: nowhere/bench.html cannot be written\n  why:  there is no folder nowhere\n",
        ),
    ],
)
def test_words_that_make_no_plan_are_refused_before_a_server_is_asked(line: str, text: str) -> None:
    result = CliRunner().invoke(app, ["bench", *shlex.split(line)], prog_name="forge")

    assert (result.exit_code, result.stderr) == (2, text)


def test_a_dry_run_prints_the_loads_and_asks_no_server() -> None:
    line = "bench --concurrency 2 --requests 5 --layers --prefix-reuse --html b.html --dry-run"

    result = CliRunner().invoke(app, line.split(), prog_name="forge")

    assert (result.exit_code, result.stdout) == (
        0,
        "model     core model, ensemble and BLS, in turns, over http\n"
        "prompts   built-in task completion\n"
        "load      2 at once: 5 requests, after 2 to warm up\n"
        "then      TTFT behind cold and warm prefixes\n"
        "writes    b.html\n",
    )


def test_without_a_server_the_bench_says_so() -> None:
    result = CliRunner().invoke(app, ["bench"], prog_name="forge")

    assert (result.exit_code, result.stderr) == (
        7,
        "error: no server is running\n  try:  forge serve\n",
    )
