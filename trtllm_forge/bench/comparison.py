"""Two benches beside each other: what became slower by more than noise.

Judged are throughput, goodput and the medians of TTFT, ITL, TPOT and e2e of each load that both
have, and the share of failed requests. The 95th percentiles are shown and not judged: of a few
dozen requests they are two or three, and differ from run to run on their own.
"""

from __future__ import annotations

import json
import shlex
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

from trtllm_forge.errors import ConfigError, ProbeError, unreadable

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from trtllm_forge.files.digest import JsonValue

Verdict = Literal["slower", "faster", "same", "shown"]

BENCH_SCHEMA = 1
_RATES = ("output_tokens_per_s", "requests_per_s", "goodput_per_s")
_JUDGED_RATES = ("output_tokens_per_s", "goodput_per_s")
_TIMES = ("ttft_ms", "itl_ms", "tpot_ms", "e2e_ms")
_ENVIRONMENT = ("cpu", "cores", "gpus", "python", "server_version", "packages", "repository")
_FEWEST_FAILURES = 0.01


@dataclass(frozen=True, kw_only=True)
class Line:
    """One figure of one load, in both; ``change`` is ``now / before - 1``."""

    load: str
    figure: str
    before: float
    now: float
    change: float
    verdict: Verdict


class SlowerError(ProbeError):
    """A figure is worse than before by more than the noise band."""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """What differs.

    Attributes:
        noise: Share by which figures may differ and still count as equal.
        lines: Every figure of the loads that both have.
        unmatched: Loads that only one of the two has.
        environment: What the two ran on, where it differs.
    """

    noise: float
    lines: tuple[Line, ...]
    unmatched: tuple[str, ...]
    environment: tuple[str, ...]

    @property
    def is_slower(self) -> bool:
        """Return whether any judged figure is worse beyond the noise."""
        return any(line.verdict == "slower" for line in self.lines)

    def document(self) -> dict[str, JsonValue]:
        """Return it for the JSON document."""
        return {
            "noise": self.noise,
            "is_slower": self.is_slower,
            "lines": [asdict(line) for line in self.lines],
            "unmatched": list(self.unmatched),
            "environment": list(self.environment),
        }

    def error(self) -> SlowerError:
        """Return what says that it is slower."""
        worse = [line for line in self.lines if line.verdict == "slower"]
        noun = "figure is" if len(worse) == 1 else "figures are"
        what = f"{len(worse)} {noun} worse than before by more than {self.noise:.0%}"
        why = "; ".join(
            f"{line.load}: {line.figure} {line.before:g} -> {line.now:g}" for line in worse
        )
        return SlowerError(what, why=why)


def read_bench(path: Path) -> dict[str, Any]:
    """Return an earlier bench's document.

    Raises:
        ConfigError: The file cannot be read, or is no such document.
    """
    what = f"{path} is no document of forge bench"
    hint = f"forge bench --json > {shlex.quote(str(path))}"
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise unreadable(path, error, hint=hint) from error
    except ValueError as error:
        raise ConfigError(what, why=f"it is not JSON: {error}", hint=hint) from error
    if not isinstance(document, dict) or not isinstance(document.get("bench"), dict):
        raise ConfigError(what, why="it has no figures under the key bench", hint=hint)
    schema = document.get("schema")
    if schema != BENCH_SCHEMA:
        why = f"its schema is {schema!r}, this forge reads {BENCH_SCHEMA}"
        raise ConfigError(what, why=why, hint=hint)
    return document


def compare_documents(
    before: Mapping[str, Any], now: Mapping[str, Any], *, noise: float
) -> Comparison:
    """Return what differs between two benches, load by load.

    Raises:
        ConfigError: They have no load in common.
    """
    old, new = before["bench"], now["bench"]
    shared = [name for name in new if name in old]
    if not shared:
        what = "the two benches have no load in common"
        why = f"before: {'; '.join(old) or 'none'}, now: {'; '.join(new) or 'none'}"
        raise ConfigError(what, why=why)
    lines = [line for name in shared for line in _lines(name, old[name], new[name], noise)]
    return Comparison(
        noise=noise,
        lines=tuple(lines),
        unmatched=tuple(sorted(set(old) ^ set(new))),
        environment=tuple(_differences(before, now)),
    )


def _lines(
    load: str, old: Mapping[str, Any], new: Mapping[str, Any], noise: float
) -> Iterator[Line]:
    for name in _RATES:
        if old.get(name) and new.get(name) is not None:
            judged = name in _JUDGED_RATES
            yield _line(load, name, (old[name], new[name]), noise, sign=-1, is_judged=judged)
    for name in _TIMES:
        for part in ("p50", "p95"):
            pair = tuple((document.get(name) or {}).get(part) for document in (old, new))
            if pair[0] and pair[1] is not None:
                is_judged = part == "p50"
                figure = f"{name} {part}"
                yield _line(load, figure, (pair[0], pair[1]), noise, sign=1, is_judged=is_judged)
    shares = (_failed_share(old), _failed_share(new))
    if max(shares) > 0:
        grew = shares[1] - shares[0]
        is_worse = grew > max(noise, _FEWEST_FAILURES)
        yield Line(
            load=load,
            figure="share of failed requests",
            before=shares[0],
            now=shares[1],
            change=grew,
            verdict="slower" if is_worse else "same",
        )


def _line(
    load: str,
    figure: str,
    pair: tuple[float, float],
    noise: float,
    *,
    sign: int,
    is_judged: bool,
) -> Line:
    before, now = pair
    change = now / before - 1
    verdict: Verdict = "shown"
    if is_judged:
        # A rate that fell to 1 / (1 + noise) is as much worse as a time that rose to 1 + noise.
        worse = change if sign > 0 else before / now - 1 if now else float("inf")
        better = before / now - 1 if sign > 0 and now else change
        verdict = "slower" if worse > noise else "faster" if better > noise else "same"
    return Line(load=load, figure=figure, before=before, now=now, change=change, verdict=verdict)


def _failed_share(load: Mapping[str, Any]) -> float:
    failed = sum(int(entry["count"]) for entry in load.get("errors", {}).values())
    return failed / max(1, failed + int(load.get("requests", 0)))


def _differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    old, new = before.get("environment", {}), now.get("environment", {})
    for name in _ENVIRONMENT:
        if old.get(name) != new.get(name):
            yield f"{name}: {_shown(old.get(name))} -> {_shown(new.get(name))}"
    old, new = before.get("settings", {}), now.get("settings", {})
    for name in ("prompts", "output_tokens", "fixed_length"):
        if old.get(name) != new.get(name):
            yield f"{name}: {_shown(old.get(name))} -> {_shown(new.get(name))}"


def _shown(value: object) -> str:
    return json.dumps(value, sort_keys=True)
