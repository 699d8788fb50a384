"""From the words of the command line to a plan, with every mistake told."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, cast, get_args

from trtllm_forge.bench.load import Pace
from trtllm_forge.bench.metrics import Quantity
from trtllm_forge.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from trtllm_forge.bench.load import Arrivals
    from trtllm_forge.bench.prompts import Task
    from trtllm_forge.files.digest import JsonValue

DEFAULT_REQUESTS_PER_SLOT = 8
DEFAULT_RATE_REQUESTS = 32
DEFAULT_CONCURRENCY = "1,4,16"


@dataclass(frozen=True, kw_only=True)
class BenchPlan:
    """What to measure, and how.

    Attributes:
        paces: The loads, in order; each is run against each target.
        protocol: Name of the wire.
        model: The model to ask; None for the one that clients talk to.
        is_layered: Ask every layer of the repository with the same kind of requests.
        task: The built-in prompts to send, unless a file or a length is given.
        prompts_path: A file of prompts.
        prompt_tokens: Length of synthetic prompts.
        output_tokens: How many tokens to ask for; None for what the prompts say.
        fixed_length: Ask past the end token, so that every answer is as long as asked for.
        limits_s: What an answer must keep to count as goodput.
        has_prefix_reuse: Also measure TTFT behind a cold and a warm prefix.
        tokenizer_dir: The tokenizer, where it is not the one of the known repository.
        timeout_s: How long one answer may take.
        seed: Of prompts and arrivals.
    """

    paces: tuple[Pace, ...]
    protocol: str = "http"
    model: str | None = None
    is_layered: bool = False
    task: Task = "completion"
    prompts_path: Path | None = None
    prompt_tokens: int | None = None
    output_tokens: int | None = None
    fixed_length: bool = True
    limits_s: Mapping[Quantity, float]
    has_prefix_reuse: bool = False
    tokenizer_dir: Path | None = None
    timeout_s: float = 120.0
    seed: int = 0

    def document(self, html_path: Path | None) -> dict[str, JsonValue]:
        """Return what would be run, for ``--dry-run``."""
        return {
            "protocol": self.protocol,
            "model": self.model,
            "layers": self.is_layered,
            "prompts": self.prompts_name,
            "loads": [{"name": pace.name, "counts": pace.extent} for pace in self.paces],
            "prefix_reuse": self.has_prefix_reuse,
            "html": str(html_path) if html_path else None,
        }

    @property
    def prompts_name(self) -> str:
        """Return which prompts are sent."""
        if self.prompts_path is not None:
            return str(self.prompts_path)
        if self.prompt_tokens is not None:
            return f"synthetic, {self.prompt_tokens} tokens"
        return f"built-in task {self.task}"


def read_concurrency(text: str) -> tuple[int, ...]:
    """Return the numbers of ``1,4,16``.

    Raises:
        ConfigError: One of them is no whole number from 1 on.
    """
    numbers = []
    for word in text.split(","):
        if not word.strip().isdecimal() or int(word) < 1:
            what = f"--concurrency {text} is no list of numbers of requests from 1 on"
            raise ConfigError(what, hint="forge bench --concurrency 1,4,16")
        numbers.append(int(word))
    return tuple(dict.fromkeys(numbers))


def read_limits(text: str | None) -> dict[Quantity, float]:
    """Return the limits of ``ttft=200,itl=50``, given in milliseconds, in seconds.

    Raises:
        ConfigError: A name is unknown or a limit is no positive number.
    """
    limits: dict[Quantity, float] = {}
    for word in text.split(",") if text else ():
        name, _, value = word.strip().partition("=")
        if name not in get_args(Quantity):
            what = f"--goodput {text} has no quantity {name or word}"
            why = f"a limit is one of {', '.join(get_args(Quantity))}, in milliseconds"
            raise ConfigError(what, why=why, hint="forge bench --goodput ttft=200,itl=50")
        try:
            limit_ms = float(value)
        except ValueError:
            limit_ms = 0.0
        if not 0 < limit_ms < float("inf"):
            what = f"--goodput {text} gives {name} the limit {value!r}, wanted milliseconds above 0"
            raise ConfigError(what, hint="forge bench --goodput ttft=200,itl=50")
        limits[cast("Quantity", name)] = limit_ms / 1000
    return limits


def refuse_together(command: str, options: Mapping[str, object]) -> None:
    """Refuse options of which only one may be given.

    Raises:
        ConfigError: Two of them are.
    """
    given = [name for name, value in options.items() if value]
    if len(given) > 1:
        what = f"{given[0]} and {given[1]} cannot be given together"
        raise ConfigError(what, hint=f"{command} --help")


def plan_paces(
    *,
    concurrency: str | None,
    rate: float | None,
    arrivals: Arrivals,
    warm_up: int | None,
    requests: int | None,
    duration_s: float | None,
    seed: int,
) -> tuple[Pace, ...]:
    """Return the loads: one per number at once, or the one of a rate.

    Without a number or a duration, a closed loop runs eight requests per slot. Without a warm-up,
    each slot sends one request before those that count.

    Raises:
        ConfigError: Two of them exclude each other, or ``concurrency`` is no list of numbers.
    """
    refuse_together("forge bench", {"--requests": requests, "--duration": duration_s})
    refuse_together("forge bench", {"--rate": rate, "--concurrency": concurrency})
    if rate is not None:
        count = requests or (None if duration_s else DEFAULT_RATE_REQUESTS)
        return (
            Pace(
                rate=rate,
                arrivals=arrivals,
                warm_up=1 if warm_up is None else warm_up,
                requests=count,
                duration_s=duration_s,
                seed=seed,
            ),
        )
    return tuple(
        Pace(
            concurrency=slots,
            warm_up=slots if warm_up is None else warm_up,
            requests=requests
            or (None if duration_s else max(16, slots * DEFAULT_REQUESTS_PER_SLOT)),
            duration_s=duration_s,
        )
        for slots in read_concurrency(concurrency or DEFAULT_CONCURRENCY)
    )
