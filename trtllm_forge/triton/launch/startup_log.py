r"""Finds the reason why Triton did not start in its log.

The lines read here, of Triton 2.51; older ones break the quoted text at its ``\n``::

    ... "failed to load 'M' version 1: Internal: ValueError: text\n\nAt:\n  FILE(25): f\n"
    ... "Poll failed for model directory 'M': text"
    | M | 1 | UNAVAILABLE: Internal: ValueError: text |
    ... "failed to start HTTP service: Unavailable - Socket '127.0.0.1:8000' already in use "
    ... "loading: M:1"
    ... "successfully loaded 'M'"
    error: creating server: Internal - failed to load all models

The meaning of a message and its remedy come from the catalogue of ``failures``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from trtllm_forge.machine.process.failures import Diagnosis, find_failure

if TYPE_CHECKING:
    from collections.abc import Sequence

_FAILED_LOAD = re.compile(r"failed to load '(?P<model>[^']+)' version \d+: (?P<text>.*)")
_FAILED_POLL = re.compile(r"Poll failed for model directory '(?P<model>[^']+)': (?P<text>[^\"]*)")
_TABLE_ROW = re.compile(r"^\|\s*(?P<model>[^|]+?)\s*\|[^|]*\|\s*UNAVAILABLE:\s*(?P<text>.+?)\s*\|$")
_SERVICE = re.compile(r"\"(?P<text>failed to start \S+ service: [^\"]*)\"")
_CREATING = re.compile(r"^error: creating server: (?P<text>.*)")
_PATTERNS = (_FAILED_POLL, _TABLE_ROW, _SERVICE, _CREATING)
_LOADING = re.compile(r"\"loading: (?P<model>[^:\"]+):")
_LOADED = re.compile(r"\"successfully loaded '(?P<model>[^']+)'")
_PLACE = re.compile(r"^\s*(?P<file>.+)\((?P<line>\d+)\): (?P<function>\S+)$", re.MULTILINE)
_STATUS = re.compile(r"^(?:Internal|Invalid argument|Unavailable|Unsupported|Not found): ")
# An ensemble's failure repeats that of its model.
_FOLLOWS = re.compile(r"ensemble '[^']+' depends on '[^']+' which has no loaded version")
# A new entry starts with a date or, in the other format, a severity and a day.
_ENTRY = re.compile(r"^(?:\d{4}-\d\d-\d\dT|[IWEF]\d{4} |\+--|error: )")


@dataclass(frozen=True, kw_only=True)
class StartupFailure:
    """Why a server did not start.

    Attributes:
        model: The model that did not load, or empty if the server itself failed.
        message: The model's or the server's own error.
        place: ``file:line in function`` of the Python model, or empty.
        diagnosis: The known failure it matches, or None.
    """

    model: str
    message: str
    place: str
    diagnosis: Diagnosis | None = None


def find_startup_failure(
    lines: Sequence[str], *, returncode: int | None = None
) -> StartupFailure | None:
    """Return the first failure in a log, the model's own before what follows from it.

    Args:
        lines: The log.
        returncode: The server's exit code, minus the signal's number for a signal; None when it
            runs or the code is unknown.
    """
    failure = _told_failure(lines)
    known = _diagnosis(lines, failure, returncode)
    if failure is not None:
        return replace(failure, diagnosis=known)
    if known is None:
        return None
    return StartupFailure(model="", message=known.line or known.cause, place="", diagnosis=known)


def _told_failure(lines: Sequence[str]) -> StartupFailure | None:
    for index, line in enumerate(lines):
        if match := _FAILED_LOAD.search(line):
            # Text that is not escaped continues on the following lines.
            following = [] if "\\n" in line else _until_next_entry(lines[index + 1 :])
            text = "\n".join([match["text"].replace("\\n", "\n"), *following])
            return _failure(match["model"], text)
    for pattern in _PATTERNS:
        for line in lines:
            if match := pattern.search(line):
                return _failure(match.groupdict().get("model", ""), match["text"])
    return None


def _diagnosis(
    lines: Sequence[str], failure: StartupFailure | None, returncode: int | None
) -> Diagnosis | None:
    if failure is not None:
        own = find_failure(failure.message.splitlines(), where="serve", returncode=None)
        if own is not None:
            return own
        if failure.model:
            lines = [line for line in lines if not _FOLLOWS.search(line)]
    parts = [part for line in lines for part in line.split("\\n")]
    return find_failure(parts, where="serve", returncode=returncode)


def models_still_loading(lines: Sequence[str]) -> tuple[str, ...]:
    """Return the models that have started but not finished loading."""
    models = LoadedModels()
    models.read(lines)
    return models.loading()


class LoadedModels:
    """The models of a starting server, from its growing log."""

    def __init__(self) -> None:
        self._is_loaded: dict[str, bool] = {}

    def read(self, lines: Sequence[str]) -> None:
        """Read the next lines of the log."""
        for line in lines:
            if match := _LOADING.search(line):
                self._is_loaded[match["model"]] = False
            elif match := _LOADED.search(line):
                self._is_loaded[match["model"]] = True

    def loading(self) -> tuple[str, ...]:
        """Return the models that have started but not finished loading."""
        return tuple(name for name, is_loaded in self._is_loaded.items() if not is_loaded)

    def text(self) -> str:
        """Return its progress as text."""
        loading, total = self.loading(), len(self._is_loaded)
        if not total:
            return "starting Triton"
        if not loading:
            return f"{total} of {total} models are loaded"
        return f"loading {', '.join(loading)}, {total - len(loading)} of {total} models are loaded"


def _until_next_entry(lines: Sequence[str]) -> list[str]:
    following = []
    for line in lines:
        if _ENTRY.match(line):
            break
        following.append(line)
    return following


def _failure(model: str, text: str) -> StartupFailure:
    message, _, trace = text.partition("\n\nAt:\n")
    places = list(_PLACE.finditer(trace.rstrip('"')))
    # The innermost call comes first; the model's own file says more than a library's.
    own = [place for place in places if f"/{model}/" in place["file"]]
    best = next(iter(own or places), None)
    place = f"{best['file']}:{best['line']} in {best['function']}" if best else ""
    message = _STATUS.sub("", message.strip().rstrip('"')).strip().rstrip(".;")
    return StartupFailure(model=model, message=message, place=place)
