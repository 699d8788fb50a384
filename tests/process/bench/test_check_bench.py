"""The client that the bench is checked by, on a real server, and what its rounds decide."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from scripts.check_bench import Load, agreement, sums, write_prompts

if TYPE_CHECKING:
    from collections.abc import Sequence

ROOT = Path(__file__).resolve().parents[3]
DEADLINE_S = 60


@pytest.mark.parametrize(
    ("rounds", "verdict"),
    [
        pytest.param([(1.01, 1.0), (0.99, 1.0), (1.0, 1.0)], "agrees", id="close and steady"),
        pytest.param([(1.1, 1.0), (1.11, 1.0), (1.09, 1.0)], "differs", id="far and steady"),
        pytest.param([(1.3, 1.0), (0.8, 1.0), (1.0, 1.0)], "undecided", id="close but unsteady"),
        pytest.param([(1.3, 1.0), (1.0, 1.0), (1.2, 1.0)], "undecided", id="far but unsteady"),
        pytest.param([(1.0, 1.0)], "undecided", id="once"),
    ],
)
def test_rounds_decide_only_when_their_whole_interval_lies_on_one_side(
    rounds: Sequence[tuple[float, float]], verdict: str
) -> None:
    assert agreement(rounds).verdict == verdict


def test_sums_are_of_what_was_sent_and_received_within_the_window() -> None:
    before = (0.0, 0.5, 1.5, 11)  # half of its text came within
    first = (1.0, 1.2, 1.6, 5)
    second = (1.5, 1.6, 1.8, 5)
    after = (2.0, 2.1, 2.2, 5)

    tokens_per_s, ttft_ms, tpot_ms, e2e_ms = sums([before, first, second, after], 1.0, 2.0)

    assert tokens_per_s == pytest.approx(5.5 + 5 + 5)
    assert ttft_ms == pytest.approx(150.0)
    assert tpot_ms == pytest.approx(75.0)
    assert e2e_ms == pytest.approx(450.0)


def test_prompts_are_distinct_and_their_lengths_vary_around_the_one_asked_for(
    tmp_path: Path,
) -> None:
    load = Load(url="", concurrency=1, duration_s=1.0, output_tokens=32)

    items = [
        json.loads(line)
        for name in ("bench", "plain")
        for line in write_prompts(tmp_path / name, load).read_text().splitlines()
    ]

    assert len({item["prompt"] for item in items}) == len(items)
    assert {item["output_tokens"] for item in items} == set(range(24, 41))


def test_plain_client_loads_a_server_until_its_stdin_ends(tmp_path: Path) -> None:
    prompts_path = tmp_path / "prompts.jsonl"
    prompts_path.write_text('{"prompt": "a", "output_tokens": 6}\n')
    server_command = [sys.executable, "-m", "tests.servers.paced_triton", "--first-s", "0.001"]
    with subprocess.Popen(server_command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as server:
        try:
            assert server.stdout is not None
            url = json.loads(server.stdout.readline())["http"]
            command = [sys.executable, "scripts/plain_client.py", url, str(prompts_path)]
            done = subprocess.run(
                [*command, "--concurrency", "3", "--requests", "4"],
                cwd=ROOT,
                capture_output=True,
                text=True,
                timeout=DEADLINE_S,
                check=True,
            )
        finally:
            server.kill()

    answers = json.loads(done.stdout)
    assert len(answers) >= 4
    assert answers == sorted(answers)
    for sent, first, end, tokens in answers:
        assert sent < first < end
        assert tokens == 6
