"""Compares the figures of ``forge bench`` with those of a client that shares no code with it.

Both load the same server at the same time, each from a process of its own, so that whatever else
the machine does hits both alike. The lengths of their answers vary in the same way: with equal
lengths the two would fall into step, and one would always come just before the other. A round
gives one ratio per figure. Rounds go on until the 95 % interval of each mean ratio lies within 5 %
of 1, which is agreement, or wholly outside; what is neither after the last round is no agreement::

    python scripts/check_bench.py                                # a server that keeps a pace
    python scripts/check_bench.py http://127.0.0.1:8000          # any other, with an ensemble
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import math
import random
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

ROOT = Path(__file__).resolve().parent.parent
TOLERANCE = 0.05
FIGURES = ("tokens per s", "TTFT p50 ms", "TPOT p50 ms", "end to end p50 ms")
_FEWEST_ROUNDS = 5
# Student's t, both sides, 95 %, by degrees of freedom; the last one serves for all beyond.
_T = (12.71, 4.30, 3.18, 2.78, 2.57, 2.45, 2.36, 2.31, 2.26, 2.23, 2.20, 2.18, 2.16, 2.14)
_VARIATION = 8
_WARM_UP = 3  # requests per slot: before that, the two have not mixed
_PROMPTS = 4000
# Numbers that no earlier run has used: the server would know the prompts' prefixes.
_numbers = itertools.count(time.time_ns() // 1_000_000)


@dataclass(frozen=True, kw_only=True)
class Load:
    """What both clients do."""

    url: str
    concurrency: int
    duration_s: float
    output_tokens: int


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """What the rounds so far say of one figure.

    Attributes:
        bench: Median of what the bench found.
        plain: Median of what the other client found.
        difference: The mean ratio - 1, as the geometric mean.
        margin: Half of its 95 % interval.
    """

    bench: float
    plain: float
    difference: float
    margin: float

    @property
    def verdict(self) -> str:
        """Return ``agrees``, ``differs``, or ``undecided``, which more rounds may decide."""
        if abs(self.difference) + self.margin <= TOLERANCE:
            return "agrees"
        return "differs" if abs(self.difference) - self.margin > TOLERANCE else "undecided"


Figures = tuple[float, ...]


def main() -> int:
    """Run both clients and print what each found; return 1 unless they agree in everything."""
    arguments = _arguments()
    with _server(arguments.url) as url:
        verdicts = [
            verdict
            for concurrency in map(int, arguments.concurrency.split(","))
            for verdict in _compare(
                Load(
                    url=url,
                    concurrency=concurrency,
                    duration_s=arguments.duration,
                    output_tokens=arguments.output_tokens,
                ),
                arguments.most_rounds,
            )
        ]
    return 0 if set(verdicts) == {"agrees"} else 1


def agreement(rounds: Sequence[tuple[float, float]]) -> Agreement:
    """Return what rounds, of the bench and of the other client, say of a figure."""
    ratios = [math.log(bench / plain) for bench, plain in rounds]
    freedom = len(ratios) - 1
    spread = statistics.stdev(ratios) / math.sqrt(len(ratios)) if freedom else math.inf
    return Agreement(
        bench=statistics.median(bench for bench, _ in rounds),
        plain=statistics.median(plain for _, plain in rounds),
        difference=math.expm1(statistics.fmean(ratios)),
        margin=spread * _T[max(0, min(freedom, len(_T)) - 1)],
    )


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("url", nargs="?", help="a server's HTTP address")
    parser.add_argument("--concurrency", default="1,4,16", help="of each of the two clients")
    parser.add_argument("--duration", type=float, default=8.0, help="seconds of a round")
    parser.add_argument("--output-tokens", type=int, default=32)
    parser.add_argument("--most-rounds", type=int, default=20, help=f"{_FEWEST_ROUNDS} or more")
    return parser.parse_args()


def _compare(load: Load, most_rounds: int) -> list[str]:
    """Return the verdict on each figure."""
    found: list[tuple[Figures, Figures]] = []
    agreements: list[Agreement] = []
    while len(found) < max(most_rounds, _FEWEST_ROUNDS):
        found.append(_both(load))
        if len(found) < _FEWEST_ROUNDS:
            continue
        agreements = [
            agreement([(bench[place], plain[place]) for bench, plain in found])
            for place in range(len(FIGURES))
        ]
        if all(one.verdict != "undecided" for one in agreements):
            break
    for figure, one in zip(FIGURES, agreements, strict=True):
        print(
            f"{load.concurrency:>3} at once  {figure:<18}  forge bench {one.bench:9.2f}  "
            f"other client {one.plain:9.2f}  {one.difference:+7.2%} +-{one.margin:5.2%}  "
            f"{len(found)} rounds  {one.verdict}",
            flush=True,
        )
    return [one.verdict for one in agreements]


def _both(load: Load) -> tuple[Figures, Figures]:
    """Run both clients beside each other; return the figures of each."""
    with tempfile.TemporaryDirectory(prefix="forge-check-bench-") as folder:
        paths = [write_prompts(Path(folder, name), load) for name in ("bench", "plain")]
        command = [sys.executable, "scripts/plain_client.py", load.url, str(paths[1])]
        command += ["--concurrency", str(load.concurrency)]
        with subprocess.Popen(
            command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as plain:
            try:
                figures, start_s = _bench(load, paths[0])
            finally:
                answers, _ = plain.communicate()  # the end of its stdin is the end of its load
    if plain.returncode != 0:
        raise SystemExit(plain.returncode)
    return figures, sums(json.loads(answers), start_s, start_s + load.duration_s)


def write_prompts(stem: Path, load: Load) -> Path:
    """Write a file of prompts that no other has, their lengths drawn, and return its path."""
    source = ROOT / "trtllm_forge" / "data" / "bench" / "completion.jsonl"
    items = [json.loads(line)["prompt"] for line in source.read_text().splitlines()]
    run = next(_numbers)
    drawn = random.Random(run)
    path = stem.with_suffix(".jsonl")
    with path.open("w") as file:
        for number in range(_PROMPTS):
            length = drawn.randint(load.output_tokens - _VARIATION, load.output_tokens + _VARIATION)
            prompt = f"# case {run}-{number}\n{items[number % len(items)]}"
            file.write(json.dumps({"prompt": prompt, "output_tokens": max(2, length)}) + "\n")
    return path


def _bench(load: Load, prompts_path: Path) -> tuple[Figures, float]:
    """Return the bench's figures, and when the window began in which it took them."""
    command = [sys.executable, "-m", "trtllm_forge", "bench", "--http", load.url, "--json"]
    command += ["--concurrency", str(load.concurrency), "--duration", str(load.duration_s)]
    command += ["--prompts", str(prompts_path)]
    command += ["--warm-up", str(_WARM_UP * load.concurrency)]
    with subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        words, ended_s = _read_until_measured(process.stderr)
        document, rest = process.communicate()
    if process.returncode != 0 or not ended_s:
        raise SystemExit(words + rest + document)
    found = json.loads(document)
    (figures,) = found["bench"].values()
    (requests,) = found["timeline"].values()
    times = (figures[name]["p50"] for name in ("ttft_ms", "tpot_ms", "e2e_ms"))
    last_ms = max(request["ended_ms"] for request in requests)
    return (figures["output_tokens_per_s"], *times), ended_s - last_ms / 1000


def _read_until_measured(stderr: IO[str]) -> tuple[str, float]:
    """Return what the bench said until its load had ended, and when that was; 0 if it did not.

    The document comes after the last of these lines, so no pipe can be full.
    """
    words = ""
    for line in stderr:
        words += line
        if line.startswith("measured "):
            return words, time.monotonic()
    return words, 0.0


def sums(answers: list[tuple[float, float, float, int]], start_s: float, end_s: float) -> Figures:
    """Return the same figures of what was sent within a window."""
    within = [answer for answer in answers if start_s <= answer[0] < end_s]
    # A token counts by the share of its answer's text that came within.
    tokens = sum(
        count * max(0.0, min(end, end_s) - max(first, start_s)) / max(end - first, 1e-9)
        for _, first, end, count in answers
    )
    return (
        tokens / (end_s - start_s),
        statistics.median(1000 * (first - sent) for sent, first, _, _ in within),
        statistics.median(1000 * (end - first) / (count - 1) for _, first, end, count in within),
        statistics.median(1000 * (end - sent) for sent, _, end, _ in within),
    )


@contextlib.contextmanager
def _server(url: str | None) -> Iterator[str]:
    if url is not None:
        yield url
        return
    command = [sys.executable, "-m", "tests.servers.paced_triton"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as server:
        try:
            assert server.stdout is not None
            yield json.loads(server.stdout.readline())["http"]
        finally:
            server.kill()


if __name__ == "__main__":
    raise SystemExit(main())
