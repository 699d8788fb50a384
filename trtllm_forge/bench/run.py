"""Runs a bench: finds what is served, loads it step by step, and returns one document.

The document, schema 1, has the figures of each load under ``bench`` by the load's name, and
beside them ``settings``, ``formulas``, ``environment``, ``timeline`` and, where asked for,
``layers`` and ``prefix_reuse``.
"""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from trtllm_forge.bench.answers import read_answer
from trtllm_forge.bench.figures import BUSY_CLIENT_SHARE, failures, figures, measure, timeline
from trtllm_forge.bench.fingerprint import fingerprint
from trtllm_forge.bench.load import run_load
from trtllm_forge.bench.metrics import FORMULAS, percentile, tokens_per_s, ttft_s
from trtllm_forge.bench.prompts import (
    file_prompts,
    load_tokens,
    synthetic_prompts,
    task_prompts,
)
from trtllm_forge.bench.target import find_target, layer_targets
from trtllm_forge.bench.wire import open_wire
from trtllm_forge.errors import ConfigError, ProbeError, ServerError
from trtllm_forge.triton.client.http import TritonHttp
from trtllm_forge.triton.repository.names import CORE, FRONT_MODEL, TOKENIZER_DIR

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence
    from pathlib import Path

    from trtllm_forge.bench.figures import Measured
    from trtllm_forge.bench.load import Pace
    from trtllm_forge.bench.plan import BenchPlan
    from trtllm_forge.bench.prompts import Prompts, Tokens
    from trtllm_forge.bench.target import Target
    from trtllm_forge.bench.wire import Wire
    from trtllm_forge.checkpoint.fim import FimTemplate
    from trtllm_forge.errors import ForgeError
    from trtllm_forge.files.digest import JsonValue
    from trtllm_forge.reporter import Reporter
    from trtllm_forge.triton.client.address import ServerAddress

BENCH_SCHEMA = 1
_LATE_S = 0.01
_FIRST_LOOK_TOKENS = 32


def run_bench(address: ServerAddress, plan: BenchPlan, reporter: Reporter) -> dict[str, JsonValue]:
    """Return the document of a bench.

    Raises:
        ConfigError: The server has no such model, or the plan needs what is not known of it.
        ServerError: No server answers.
        ProbeError: Not one request of a load was answered.
    """
    http = TritonHttp(address.urls.http, control_key=address.urls.control_key)
    version = http.server_version()
    if plan.is_layered:
        targets = layer_targets(http, fixed_length=plan.fixed_length)
    else:
        is_named = plan.model is not None or address.front != FRONT_MODEL
        model = address.front if is_named else None
        targets = (find_target(http, model, fixed_length=plan.fixed_length),)
    tokenizer_dir = plan.tokenizer_dir or (
        address.repository_dir / TOKENIZER_DIR if address.repository_dir else None
    )
    bench = _Bench(address, plan, targets, tokenizer_dir, reporter)
    loads, prefix_reuse = asyncio.run(bench.run())
    document: dict[str, JsonValue] = {
        "schema": BENCH_SCHEMA,
        "bench": {load.name: figures(load, plan.limits_s) for load in loads},
        "settings": _settings(plan, bench.prompts),
        "formulas": dict(FORMULAS),
        "environment": fingerprint(address.repository_dir, version),
    }
    if plan.is_layered:
        document["layers"] = _layers(loads)
    if prefix_reuse is not None:
        document["prefix_reuse"] = prefix_reuse
    document["timeline"] = {load.name: timeline(load) for load in loads}
    _warn(loads, reporter)
    return document


class _Bench:
    """One run: what its loads share."""

    def __init__(
        self,
        address: ServerAddress,
        plan: BenchPlan,
        targets: Sequence[Target],
        tokenizer_dir: Path | None,
        reporter: Reporter,
    ) -> None:
        self._address = address
        self._plan = plan
        self._targets = targets
        self._tokenizer_dir = tokenizer_dir
        self._reporter = reporter
        self._load_number = 0
        needs_ids = any(target.kind == "ids" for target in targets)
        self._tokens = self._load_tokens() if needs_ids or plan.prompt_tokens else None
        self.prompts = self._find_prompts()

    async def run(self) -> tuple[list[Measured], dict[str, JsonValue] | None]:
        """Run all loads; they take turns over the targets, so that a drift hits all alike."""
        async with self._wire() as wire:
            targets = [await self._with_engine_metrics(wire, target) for target in self._targets]
            loads = []
            for pace in self._plan.paces:
                for target in targets:
                    loads.append(await self._run_load(wire, target, pace))
            if not self._plan.has_prefix_reuse:
                return loads, None
            from trtllm_forge.bench.prefix_reuse import measure_prefix_reuse

            # The engine's own figures tell how many blocks were reused, where it gives them.
            encode = self._encoder(wire, replace(targets[-1], engine_metrics=True))
            return loads, await measure_prefix_reuse(wire, encode, self._plan.seed)

    async def _run_load(self, wire: Wire, target: Target, pace: Pace) -> Measured:
        encode = self._encoder(wire, target)
        load_number = self._load_number
        self._load_number += 1

        def message(number: int) -> bytes:
            prompt = self.prompts.of(load_number, number)
            return encode(prompt.text, _output_tokens(prompt.output_tokens, pace, number))

        # What can be made before the clock runs is: the client shares the machine.
        ready = [message(number) for number in range(_known_requests(pace))]
        traffic = await run_load(
            wire, pace, lambda number: ready[number] if number < len(ready) else message(number)
        )
        load = measure(target, self._plan.protocol, pace, traffic, wire)
        if not load.counted():
            raise _unanswered(load)
        self._reporter.note(f"measured {load.name}: {_counted(len(load.counted()), 'request')}")
        return load

    async def _with_engine_metrics(self, wire: Wire, target: Target) -> Target:
        """Return the target, with the engine's own figures if a first answer has drafts in it.

        They make every chunk larger, so they are asked for only where they tell something.
        """
        curious = replace(target, engine_metrics=True)
        # An edit repeats its prompt, so that any kind of drafting finds something to draft.
        edits = task_prompts("edit", template=None, output_tokens=None, seed=self._plan.seed)
        text = edits.of(self._load_number, 0).text
        message = self._encoder(wire, curious)(text, _FIRST_LOOK_TOKENS)
        self._load_number += 1
        reading = read_answer(wire, await wire.send(message))
        return curious if reading.draft_tokens else target

    def _encoder(self, wire: Wire, target: Target) -> Callable[[str, int], bytes]:
        encode = self._tokens.encode if self._tokens else None
        return lambda text, length: wire.encode(target, target.inputs(text, length, encode))

    @asynccontextmanager
    async def _wire(self) -> AsyncIterator[Wire]:
        wire = open_wire(self._plan.protocol, self._address.urls, timeout_s=self._plan.timeout_s)
        try:
            yield wire
        finally:
            await wire.close()

    def _find_prompts(self) -> Prompts:
        plan = self._plan
        if plan.prompts_path is not None:
            return file_prompts(
                plan.prompts_path, template=self._template(), output_tokens=plan.output_tokens
            )
        if plan.prompt_tokens is not None:
            return synthetic_prompts(
                self._load_tokens(),
                prompt_tokens=plan.prompt_tokens,
                output_tokens=plan.output_tokens,
                seed=plan.seed,
            )
        template = self._template() if plan.task == "fim" else None
        if plan.task == "fim" and template is None:
            what = "the FIM tokens of the served model are not known"
            why = (
                f"{self._tokenizer_dir} has none"
                if self._tokenizer_dir
                else "the server was not started by this user's forge"
            )
            raise ConfigError(what, why=why, hint="forge bench --task completion")
        return task_prompts(
            plan.task, template=template, output_tokens=plan.output_tokens, seed=plan.seed
        )

    def _template(self) -> FimTemplate | None:
        folder = self._tokenizer_dir
        if folder is None or not (folder / "tokenizer.json").is_file():
            return None
        from trtllm_forge.checkpoint.presets import fim_template_from_tokenizer

        return fim_template_from_tokenizer(folder)

    def _load_tokens(self) -> Tokens:
        if self._tokenizer_dir is None:
            what = "the tokenizer of the served model is not known"
            why = (
                "the server was not started by this user's forge, and token ids or lengths are "
                "wanted"
            )
            raise ConfigError(what, why=why, hint="forge bench --tokenizer DIR")
        return load_tokens(self._tokenizer_dir)


def _output_tokens(wanted: int, pace: Pace, number: int) -> int:
    """Return a request's length: those that warm up a closed loop end at different times.

    Otherwise its slots would go in step, and prefill and decode never share a batch.
    """
    slots = pace.concurrency or 1
    if number < min(pace.warm_up, slots):
        return max(1, wanted * (number + 1) // slots)
    return wanted


def _known_requests(pace: Pace) -> int:
    return pace.warm_up + (pace.requests or 0)


def _unanswered(load: Measured) -> ForgeError:
    found = failures(load)
    why = "; ".join(f"{kind}: {_first(entry)}" for kind, entry in found.items())
    what = f"no request of the load {load.name} was answered whole"
    if set(found) == {"disconnected"}:
        return ServerError(what, why=why, hint="forge serve")
    return ProbeError(what, why=why or "none was sent within the window", hint="forge probe")


def _first(entry: Any) -> str:
    return f"{_counted(entry['count'], 'request')}, the first with: {entry['first']}"


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _settings(plan: BenchPlan, prompts: Prompts) -> dict[str, JsonValue]:
    return {
        "prompts": prompts.name,
        "prompts_are_distinct": prompts.are_distinct,
        "output_tokens": plan.output_tokens,
        "fixed_length": plan.fixed_length,
        "loads": [pace.document() for pace in plan.paces],
        "limits_ms": {name: limit * 1000 for name, limit in plan.limits_s.items()},
        "timeout_s": plan.timeout_s,
        "seed": plan.seed,
    }


def _layers(loads: Sequence[Measured]) -> dict[str, JsonValue]:
    """Return each load against the core model's at the same pace: throughput, TTFT p50."""
    core = {load.pace.name: load for load in loads if load.target.model == CORE}
    rows: dict[str, JsonValue] = {}
    for load in loads:
        below = core[load.pace.name]
        rows[load.name] = {
            "tokens_per_s": round(_tokens_per_s(load) / _tokens_per_s(below), 4),
            "ttft_p50": round(_ttft_p50(load) / _ttft_p50(below), 4),
        }
    return rows


def _tokens_per_s(load: Measured) -> float:
    answers = [reading.answered for reading in load.readings if reading.answered is not None]
    return tokens_per_s(answers, load.traffic.window)


def _ttft_p50(load: Measured) -> float:
    return percentile([ttft_s(answered) for answered in load.counted()], 0.5)


def _warn(loads: Sequence[Measured], reporter: Reporter) -> None:
    """Warn of what makes figures mean something else than they seem to."""
    for load in loads:
        share = load.traffic.client_cpu_share
        if share >= BUSY_CLIENT_SHARE:
            reporter.warning(
                f"{load.name}: forge bench itself used {share:.0%} of a core, so the client may "
                "be what was measured"
            )
        late = [s.received.sent_s - s.due_s for s in load.traffic.requests if s.due_s is not None]
        if late and percentile(late, 0.95) > _LATE_S:
            reporter.warning(
                f"{load.name}: requests were sent up to {max(late) * 1000:.0f} ms after they were "
                "due, so the load was lighter than asked for"
            )
        if not all(reading.are_tokens_counted for reading in load.readings):
            reporter.warning(
                f"{load.name}: the server does not count output tokens, so each chunk counts as one"
            )
        for kind, entry in failures(load).items():
            reporter.warning(f"{load.name}: {kind}: {_first(entry)}")
