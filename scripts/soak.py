"""Mixed traffic on the twin for some minutes: is every answer right, and does anything grow?

``python -m scripts.soak --minutes 10`` builds the sample, serves it and lets clients join, read
to the end, read slowly, leave, be cancelled by gRPC and send prompts that are too long, through
the ensemble and the BLS model. Every text that was read to its end has to be the one that the
request gets alone. Prompts at which the engine itself, asked for token ids, wavers between two
nearly equal tokens when it has company are left out first. In the end nothing may be left in the
engine, and memory and shared memory are compared with those of the first part. Then the server is
killed, and what it leaves behind is looked for. Exit code 1 when something is wrong.

With ``--reloads 20`` the models are replaced that often meanwhile, by ``forge reload``, and the
metrics are read all the time.
"""

from __future__ import annotations

import argparse
import asyncio
import collections
import dataclasses
import json
import os
import random
import re
import signal
import sys
import tempfile
import time
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
from tokenizers import Tokenizer

from scripts.measure.workshop import Workshop
from tests.triton.grpc_stream import GrpcStream, long_inputs
from trtllm_forge.machine.process.lifeline import living_members

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence

FRONTS = ("ensemble", "tensorrt_llm_bls")
KINDS = {
    "stream": 10,
    "whole": 3,
    "slow reader": 2,
    "leaves": 3,
    "gRPC cancel": 1,
    "too long": 1,
}
MAX_TOKENS = 64
QUIET_DEADLINE_S = 60.0
# What allocators keep for themselves; a leak of a request in ten would be far beyond.
ALLOWED_GROWTH = 1.15
ALLOWED_GROWTH_BYTES = 48 << 20


@dataclasses.dataclass
class Tally:
    """What the clients have seen."""

    done: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    wrong: list[str] = dataclasses.field(default_factory=list)


class Client:
    """Sends requests of all kinds to one server."""

    def __init__(self, document: Mapping[str, Any], references: Mapping[str, str]) -> None:
        self._base = document["http"]
        self._grpc = document["grpc"]
        self._references = references
        self._http = httpx.AsyncClient(timeout=60, limits=httpx.Limits(max_connections=256))
        self.tally = Tally()

    async def one(self, kind: str, front: str, prompt: str) -> None:
        """Send one request of a kind and judge its answer."""
        inputs = {"text_input": prompt, "max_tokens": MAX_TOKENS, "id": uuid.uuid4().hex}
        expected = self._references[prompt]
        if kind == "too long":
            text = await self._whole(front, {**inputs, "text_input": prompt * 200})
            is_right = "the engine takes at most" in text
        elif kind == "whole":
            text = await self._whole(front, {**inputs, "exclude_input_in_output": True})
            is_right = text == expected
        elif kind == "gRPC cancel":
            text = ""
            await asyncio.to_thread(self._cancel, front)
            is_right = True
        else:
            pause_s = 0.05 if kind == "slow reader" else 0.0
            last = random.randint(1, 4) if kind == "leaves" else None
            text = await self._stream(front, inputs, pause_s=pause_s, last=last)
            is_right = expected.startswith(text) if kind == "leaves" else text == expected
        self.tally.done[f"{kind}, {front}"] += 1
        if not is_right:
            self.tally.wrong.append(f"{kind}, {front}: {text!r} for {expected!r}")

    async def _whole(self, front: str, inputs: dict[str, Any]) -> str:
        answer = await self._http.post(f"{self._base}/v2/models/{front}/generate", json=inputs)
        document = answer.json()
        return str(document.get("text_output", document.get("error")))

    async def _stream(
        self, front: str, inputs: dict[str, Any], *, pause_s: float, last: int | None
    ) -> str:
        pieces: list[str] = []
        url = f"{self._base}/v2/models/{front}/generate_stream"
        async with self._http.stream("POST", url, json={**inputs, "stream": True}) as response:
            async for piece in _pieces(response):
                pieces.append(piece)
                if len(pieces) == last:
                    break
                await asyncio.sleep(pause_s)
        return "".join(pieces)

    def _cancel(self, front: str) -> None:
        stream = GrpcStream(self._grpc, front, long_inputs(front, 900))
        stream.first()
        stream.cancel()


async def _pieces(response: httpx.Response) -> AsyncIterator[str]:
    async for line in response.aiter_lines():
        if line.startswith("data:"):
            document = json.loads(line[5:])
            yield str(document.get("text_output", document.get("error")))


async def steady(document: Mapping[str, Any], tokenizer: Any, seconds: float) -> list[str]:
    """Return the prompts to which the engine gives the same ids alone and in company."""
    prompts = [f"def function_{n}(a, b):\n    value = a * {n}\n    " for n in range(60)]
    url = f"{document['http']}/v2/models/tensorrt_llm/generate"
    http = httpx.AsyncClient(timeout=60)

    async def ids(prompt: str, tokens: int) -> list[int]:
        given = tokenizer.encode(prompt).ids
        order = {"input_ids": given, "input_lengths": len(given), "request_output_len": tokens}
        answer = await http.post(url, json={**order, "exclude_input_in_output": True})
        return list(answer.json()["output_ids"])

    alone = {prompt: await ids(prompt, MAX_TOKENS) for prompt in prompts}
    wavering: set[str] = set()
    end = time.monotonic() + seconds

    async def slot() -> None:
        while time.monotonic() < end:
            prompt = random.choice(prompts)
            if await ids(prompt, MAX_TOKENS) != alone[prompt]:
                wavering.add(prompt)

    async def company() -> None:
        while time.monotonic() < end:
            await ids("def ", 900)

    await asyncio.gather(*(slot() for _ in range(24)), *(company() for _ in range(3)))
    print(f"{len(wavering)} of {len(prompts)} prompts left out, at which the engine wavers")
    return [prompt for prompt in prompts if prompt not in wavering]


def metric(document: Mapping[str, Any], name: str, kind: str) -> float:
    """Return a value of the Prometheus text that the server gives, added up over its models."""
    text = httpx.get(document["metrics"], timeout=30).text
    found = re.findall(rf'^{name}{{[^}}]*"{kind}"[^}}]*}} (\S+)$', text, re.MULTILINE)
    if not found:
        raise LookupError(f"the metrics have no {name} of {kind}")
    return sum(map(float, found))


async def reload_models(
    document: Mapping[str, Any], environment: Mapping[str, str], reloads: int, seconds: float
) -> list[str]:
    """Replace the models so often within a time; return what went wrong."""
    problems = []
    for _ in range(reloads):
        await asyncio.sleep(seconds / (reloads + 1))
        name = document["name"]
        command = [sys.executable, "-m", "trtllm_forge", "reload", name, "--server", name]
        child = await asyncio.create_subprocess_exec(
            *command,
            env=environment,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        words, _ = await child.communicate()
        if child.returncode:
            problems.append(f"forge reload ended with {child.returncode}: {words.decode()}")
    return problems


async def read_metrics(document: Mapping[str, Any], end: float) -> None:
    """Read the metrics ten times a second until a time, as several collectors would together."""
    async with httpx.AsyncClient(timeout=30) as http:
        while time.monotonic() < end:
            (await http.get(document["metrics"])).raise_for_status()
            await asyncio.sleep(0.1)


def memory(server: int) -> dict[str, int]:
    """Return the resident bytes of each process of a server's group, by what it runs."""
    found: dict[str, int] = {}
    for pid in living_members(server):
        try:
            words = Path(f"/proc/{pid}/cmdline").read_text().split("\0")
            pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
        except OSError:
            continue
        models = [word for word in words if word.endswith(".py")]
        name = "/".join(Path(models[0]).parts[-3:]) if models else Path(words[0]).name
        found[name] = pages * os.sysconf("SC_PAGE_SIZE")
    return found


def shared_memory(prefix: str) -> int:
    """Return the bytes that a server holds in shared memory."""
    return sum(path.stat().st_blocks * 512 for path in Path("/dev/shm").glob(f"{prefix}*"))


def shared_memory_prefix(server: int) -> str:
    """Return how the names of a server's shared memory begin."""
    words = Path(f"/proc/{server}/cmdline").read_text().split("\0")
    name = "shm-region-prefix-name="
    return next(word.partition(name)[2] for word in words if name in word)


async def traffic(client: Client, prompts: Sequence[str], slots: int, end: float) -> None:
    """Keep so many requests going until a time."""
    kinds, weights = zip(*KINDS.items(), strict=True)

    async def slot() -> None:
        while time.monotonic() < end:
            (kind,) = random.choices(kinds, weights)
            front = FRONTS[random.random() < 0.2]
            try:
                await client.one(kind, front, random.choice(prompts))
            except Exception as error:
                client.tally.wrong.append(f"{kind}, {front}: {type(error).__name__}: {error}")

    await asyncio.gather(*(slot() for _ in range(slots)))


def until_quiet(document: Mapping[str, Any]) -> bool:
    """Return whether the engine has nothing left to do within the deadline."""
    deadline = time.monotonic() + QUIET_DEADLINE_S
    while metric(document, "nv_trt_llm_request_metrics", "active") > 0:
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True


def growth(before: Mapping[str, int], after: Mapping[str, int]) -> list[str]:
    """Print the memory of each process; return what grew beyond what is allowed."""
    grown = []
    for name in sorted(before):
        first, last = before[name], after.get(name, 0)
        print(f"  {name:40} {first / 1e6:8.1f} MB  {last / 1e6:8.1f} MB")
        if last > first * ALLOWED_GROWTH and last - first > ALLOWED_GROWTH_BYTES:
            grown.append(f"{name} grew from {first / 1e6:.1f} to {last / 1e6:.1f} MB")
    return grown


def run(
    document: Mapping[str, Any],
    tokenizer: Any,
    options: argparse.Namespace,
    environment: Mapping[str, str],
) -> list[str]:
    """Return what is wrong after so many minutes of traffic."""
    minutes, slots = options.minutes, options.slots
    prompts = asyncio.run(steady(document, tokenizer, 10 * min(2, minutes)))
    url = f"{document['http']}/v2/models/ensemble/generate"
    ask = {"max_tokens": MAX_TOKENS, "exclude_input_in_output": True}
    references = {
        prompt: str(
            httpx.post(url, json={**ask, "text_input": prompt, "id": uuid.uuid4().hex}).json()[
                "text_output"
            ]
        )
        for prompt in prompts
    }
    tally = Tally()

    async def part(seconds: float, reloads: int = 0) -> list[str]:
        client = Client(document, references)
        client.tally = tally
        end = time.monotonic() + seconds
        _, _, problems = await asyncio.gather(
            traffic(client, prompts, slots, end),
            read_metrics(document, end),
            reload_models(document, environment, reloads, seconds),
        )
        return problems

    asyncio.run(part(15 * minutes))
    prefix = shared_memory_prefix(document["pid"])
    before, shared_before = memory(document["pid"]), shared_memory(prefix)
    problems = asyncio.run(part(45 * minutes, options.reloads))
    if not until_quiet(document):
        problems.append("requests are left in the engine")
    print(f"{sum(tally.done.values())} requests in {minutes:g} minutes, {slots} at once:")
    for kind, count in sorted(tally.done.items()):
        print(f"  {kind:40} {count:8}")
    print("memory after the first quarter, and at the end:")
    problems += growth(before, memory(document["pid"]))
    print(f"  shared memory {shared_before / 1e6:34.1f} MB  {shared_memory(prefix) / 1e6:8.1f} MB")
    used = metric(document, "nv_trt_llm_kv_cache_block_metrics", "used")
    print(f"  KV cache blocks in use when idle: {used:g}")
    return problems + tally.wrong[:10] + [f"{len(tally.wrong)} wrong answers"] * bool(tally.wrong)


def left_after_a_crash(server: int) -> list[str]:
    """Kill the server's own process, and return what is left of it a little later."""
    prefix = shared_memory_prefix(server)
    os.kill(server, signal.SIGKILL)
    deadline = time.monotonic() + 20
    while living_members(server) or shared_memory(prefix):
        if time.monotonic() > deadline:
            return [f"left after a crash: {living_members(server)}, {shared_memory(prefix)} bytes"]
        time.sleep(0.1)
    return []


def main() -> int:
    """Run the traffic; 1 when something is wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--slots", type=int, default=24)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--reloads", type=int, default=0)
    options = parser.parse_args()
    random.seed(options.seed)
    with tempfile.TemporaryDirectory(prefix="forge-soak-") as folder:
        workshop = Workshop(root=Path(folder), rounds=1, window_s=1)
        repository_dir = workshop.build("sample", "int8")
        with workshop.serve_document(repository_dir) as document:
            path = repository_dir / "preprocessing" / "1" / "tokenizer" / "tokenizer.json"
            tokenizer = Tokenizer.from_file(str(path))
            problems = run(document, tokenizer, options, workshop.environment)
            problems += left_after_a_crash(document["pid"])
    for problem in problems:
        print(f"wrong: {problem}")
    print("nothing is wrong" if not problems else "see above")
    return bool(problems)


if __name__ == "__main__":
    sys.exit(main())
