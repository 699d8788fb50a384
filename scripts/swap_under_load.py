"""A version is replaced while streams run: does a request fail, is an answer of both versions?

``python -m scripts.swap_under_load --minutes 10 --swaps 3`` builds the sample in fp16, and in int4
with a tokenizer that numbers its tokens otherwise; serves the one; asks for the answers of both
while nothing else runs; and lets 16 clients read streams by HTTP and gRPC, from the ensemble and
the BLS model, and one the core's token ids, while the metrics are read twice a second. Meanwhile
the folder is replaced by the other version and ``forge reload`` is run, as often as asked for.
Every answer has to be, to its last letter, that of the one version or of the other, and none of
the old may begin once the new is in service. Prompts at which a version's own text wavers when it
has company are left out first. Exit code 1 when something is wrong.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokenizers import Tokenizer

from scripts.measure.other_tokenizer import renumber_tokens
from scripts.measure.workshop import Workshop
from trtllm_forge.files.resources import sample_checkpoint_dir
from trtllm_forge.machine.process.memory import memory_bytes
from trtllm_forge.triton.client.grpc import GrpcGeneration
from trtllm_forge.triton.client.http import TritonHttp

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

VERSIONS = ("old", "new")
NAME = "sample"
TOKENS = 48
PROMPTS = [f"def function_{n}(a, b):\n    value = a * {n}\n    " for n in range(24)]
_ROADS = ("ensemble", "ensemble", "ensemble", "tensorrt_llm_bls", "gRPC ensemble")
_COMPANY_S = 8.0
_MIB = 1 << 20


@dataclass
class Answer:
    """One answer, when it began, when it was over, and the gaps between its pieces."""

    road: str
    prompt: str
    text: str
    began_s: float
    ended_s: float
    gaps: list[tuple[float, float]] = field(default_factory=list)


@dataclass
class Swap:
    """One reload: when it ran, and what it said."""

    version: str
    began_s: float
    ended_s: float
    document: Mapping[str, Any]


class Clients:
    """Threads that ask, one request after the other."""

    def __init__(self, document: Mapping[str, Any], prompts: list[str], seed: int) -> None:
        self.answers: list[Answer] = []
        self.failures: list[str] = []
        self._document = document
        self._prompts = prompts
        self._seed = seed
        self._is_over = threading.Event()
        self._threads: list[threading.Thread] = []

    @contextlib.contextmanager
    def running(self, streams: int, extra: tuple[Callable[[], None], ...] = ()) -> Iterator[None]:
        """Ask until the block ends, and then read what has begun to its end."""
        jobs: list[Callable[[], None]] = [
            lambda number=number: self._ask(_ROADS[number % len(_ROADS)], number)  # type: ignore[misc]
            for number in range(streams)
        ]
        self._threads = [threading.Thread(target=job) for job in [*jobs, *extra]]
        for thread in self._threads:
            thread.start()
        try:
            yield
        finally:
            self._is_over.set()
            for thread in self._threads:
                thread.join()

    def repeat(self, job: Callable[[], None], period_s: float) -> Callable[[], None]:
        """Return what does a job again and again until the clients are told to end."""

        def run() -> None:
            while not self._is_over.wait(period_s):
                try:
                    job()
                except Exception as error:  # all that is not an answer is a failure
                    self.failures.append(f"{time.monotonic():.1f} {type(error).__name__}: {error}")

        return run

    def _ask(self, road: str, number: int) -> None:
        choice = random.Random(self._seed * 1000 + number)
        while not self._is_over.is_set():
            prompt = choice.choice(self._prompts)
            try:
                self.answers.append(stream(self._document, road, prompt))
            except Exception as error:  # whatever it is, the request failed
                text = f"{time.monotonic():.1f} {road}: {type(error).__name__}: {error}"
                self.failures.append(text)
                time.sleep(0.2)


def stream(document: Mapping[str, Any], road: str, prompt: str) -> Answer:
    """Read one answer to its end."""
    inputs: dict[str, Any] = {"text_input": prompt, "max_tokens": TOKENS, "stream": True}
    model = road.removeprefix("gRPC ")
    began_s = time.monotonic()
    if road.startswith("gRPC"):
        generation = GrpcGeneration(str(document["grpc"]), model, inputs)
        chunks = generation.chunks(60)
    else:
        generation = None
        chunks = TritonHttp(str(document["http"])).generate_stream(model, inputs)
    pieces, gaps, last_s = [], [], None
    for chunk in chunks:
        now = time.monotonic()
        if last_s is not None:
            gaps.append((now, now - last_s))
        last_s = now
        pieces.append(chunk.text)
    if generation is not None:
        generation.cancel()
    return Answer(road, prompt, "".join(pieces), began_s, time.monotonic(), gaps)


def core_ids(document: Mapping[str, Any], ids: list[int]) -> list[int]:
    """Ask the core itself, which is no front model."""
    order = {"input_ids": ids, "input_lengths": len(ids), "request_output_len": 8}
    body = json.dumps({**order, "exclude_input_in_output": True}).encode()
    url = f"{document['http']}/v2/models/tensorrt_llm/generate"
    with urllib.request.urlopen(urllib.request.Request(url, data=body), timeout=60) as answer:
        return list(json.loads(answer.read())["output_ids"])


class Bench:
    """Two builds of one repository, and where the one is that is served.

    Args:
        root: A folder; the repository is in its ``model_repos``.
        environment: The variables with which ``forge`` works there.
        builds: The repository of each version.
    """

    def __init__(
        self, root: Path, environment: Mapping[str, str], builds: Mapping[str, Path]
    ) -> None:
        self.builds = builds
        self.repository_dir = root / "model_repos" / NAME
        self._environment = environment
        self.put("old")

    def put(self, version: str) -> None:
        """Put a build in the repository's place, as ``forge build`` does: by a rename."""
        staged_dir = self.repository_dir.with_name(f".{NAME}.staged")
        shutil.copytree(self.builds[version], staged_dir, copy_function=shutil.copy2)
        if self.repository_dir.exists():
            aside_dir = self.repository_dir.with_name(f".{NAME}.aside")
            self.repository_dir.rename(aside_dir)
            staged_dir.rename(self.repository_dir)
            shutil.rmtree(aside_dir)
        else:
            staged_dir.rename(self.repository_dir)

    def swap(self, version: str) -> Swap:
        """Put a build in place and reload it."""
        self.put(version)
        began_s = time.monotonic()
        done = subprocess.run(
            [sys.executable, "-m", "trtllm_forge", "reload", NAME, "--server", NAME, "--json"],
            env=self._environment,
            cwd=self.repository_dir.parent,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            message = f"forge reload ended with {done.returncode}\n{done.stdout}{done.stderr}"
            raise RuntimeError(message)
        return Swap(version, began_s, time.monotonic(), json.loads(done.stdout))


def references(
    bench: Bench, document: Mapping[str, Any], streams: int, seed: int
) -> dict[str, dict[str, str]]:
    """Return the text of each version to each prompt at which neither wavers and both differ."""
    texts: dict[str, dict[str, str]] = {}
    wavering: set[str] = set()
    for version in ("new", "old"):
        bench.swap(version)
        texts[version] = {prompt: stream(document, "ensemble", prompt).text for prompt in PROMPTS}
        clients = Clients(document, PROMPTS, seed)
        with clients.running(streams):
            time.sleep(_COMPANY_S)
        if clients.failures:
            message = f"requests fail before anything is swapped: {clients.failures[:3]}"
            raise RuntimeError(message)
        wavering |= {a.prompt for a in clients.answers if a.text != texts[version][a.prompt]}
    kept = [p for p in PROMPTS if p not in wavering and texts["old"][p] != texts["new"][p]]
    print(f"{len(kept)} of {len(PROMPTS)} prompts are steady and tell the versions apart")
    if len(kept) < 4:
        raise RuntimeError("too few prompts tell the versions apart")
    return {version: {prompt: texts[version][prompt] for prompt in kept} for version in VERSIONS}


def run(bench: Bench, document: Mapping[str, Any], options: argparse.Namespace) -> list[str]:
    """Return what is wrong after so many minutes of load."""
    expected = references(bench, document, options.streams, options.seed)
    clients = Clients(document, list(expected["old"]), options.seed)
    memory: list[tuple[float, int]] = []
    core: list[tuple[float, tuple[int, ...]]] = []
    ids = (
        Tokenizer.from_file(str(bench.builds["old"] / "preprocessing/1/tokenizer/tokenizer.json"))
        .encode(PROMPTS[0])
        .ids
    )

    def read_metrics() -> None:
        with urllib.request.urlopen(str(document["metrics"]), timeout=30) as answer:
            answer.read()
        memory.append((time.monotonic(), memory_bytes(int(document["pid"]))))

    extra = (
        clients.repeat(read_metrics, 0.5),
        clients.repeat(
            lambda: core.append((time.monotonic(), tuple(core_ids(document, ids)))), 0.5
        ),
    )
    swaps: list[Swap] = []
    part_s = options.minutes * 60 / (options.swaps + 1)
    started = time.monotonic()
    with clients.running(options.streams, extra):
        for number in range(options.swaps):
            time.sleep(max(0.0, started + part_s * (number + 1) - time.monotonic()))
            swaps.append(bench.swap(VERSIONS[(number + 1) % 2]))
        time.sleep(max(0.0, started + options.minutes * 60 - time.monotonic()))
    return report(clients, swaps, expected, memory, core)


def report(
    clients: Clients,
    swaps: list[Swap],
    expected: Mapping[str, Mapping[str, str]],
    memory: list[tuple[float, int]],
    core: list[tuple[float, tuple[int, ...]]],
) -> list[str]:
    """Print what happened; return what is wrong."""
    counts = dict.fromkeys(VERSIONS, 0)
    problems = [f"failed: {text}" for text in clients.failures]
    for answer in clients.answers:
        versions = [v for v in VERSIONS if expected[v][answer.prompt] == answer.text]
        if not versions:
            problems.append(f"mixed, {answer.road}: {answer.text!r} to {answer.prompt!r}")
            continue
        counts[versions[0]] += 1
        # What is in service when it begins, or becomes so before it is read.
        began, ended = _served(swaps, answer.began_s), _served(swaps, answer.ended_s)
        if versions[0] not in began | ended:
            problems.append(f"late, {answer.road}: an answer of the {versions[0]} version")
    core_kinds = len({ids for _, ids in core})
    roads: dict[str, int] = {}
    for answer in clients.answers:
        roads[answer.road] = roads.get(answer.road, 0) + 1
    print(f"{len(clients.answers)} answers, {len(clients.failures)} failures")
    print(f"  mixed {sum(p.startswith('mixed') for p in problems)}, per version {counts}")
    print(f"  by road {roads}; {len(core)} of the core, {core_kinds} different")
    inside = _windows(memory, swaps, inside=True)
    outside = _windows(memory, swaps, inside=False)
    print(
        f"  memory: {statistics.median(outside) / _MIB:.0f} MiB steady, "
        f"{max(inside, default=0) / _MIB:.0f} MiB at most in a swap, "
        f"{outside[-1] / _MIB:.0f} MiB in the end"
    )
    gaps = [gap for answer in clients.answers for gap in answer.gaps]
    for title, inside_swap in (("steady", False), ("in a swap", True)):
        found = sorted(_windows(gaps, swaps, inside=inside_swap))
        p99 = found[int(len(found) * 0.99)] if found else 0.0
        longest = found[-1] if found else 0.0
        print(
            f"  gap p99 {title}: {p99 * 1000:.0f} ms of {len(found)}, longest {longest * 1000:.0f}"
        )
    for swap in swaps:
        print(
            f"  swap to {swap.version}: {swap.ended_s - swap.began_s:.1f} s, loaded in "
            f"{swap.document['load_s']:.1f} s, the old gone {swap.document['drain_s']:.1f} s later"
        )
    return problems


def _served(swaps: list[Swap], moment_s: float) -> set[str]:
    """Return the versions that may be in service at a moment."""
    served = {"old"}
    for swap in swaps:
        if moment_s >= swap.ended_s:
            served = {swap.version}
        elif moment_s >= swap.began_s:
            served = {*served, swap.version}
    return served


def _windows(values: list[tuple[float, Any]], swaps: list[Swap], *, inside: bool) -> list[Any]:
    return [
        value
        for moment_s, value in values
        if any(swap.began_s <= moment_s <= swap.ended_s for swap in swaps) == inside
    ]


def main() -> int:
    """Run the load; 1 when something is wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--swaps", type=int, default=3)
    parser.add_argument("--streams", type=int, default=16)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="forge-swap-") as folder:
        workshop = Workshop(root=Path(folder), rounds=1, window_s=1)
        other = renumber_tokens(sample_checkpoint_dir(), workshop.root / "other", options.seed)
        builds = {
            "old": workshop.build("sample", "fp16"),
            "new": workshop.build(str(other), "int4"),
        }
        bench = Bench(workshop.root, workshop.environment, builds)
        with workshop.serve_document(bench.repository_dir) as document:
            problems = run(bench, document, options)
    for problem in problems[:10]:
        print(f"wrong: {problem}")
    print("nothing is wrong" if not problems else f"{len(problems)} things are wrong")
    return bool(problems)


if __name__ == "__main__":
    sys.exit(main())
