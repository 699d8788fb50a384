"""Cutting a text that comes in pieces at a stop string."""

from __future__ import annotations

import pytest

from trtllm_forge.serving.complete import StopCutter


def cut(stop: tuple[str, ...], pieces: list[str]) -> tuple[list[str], bool]:
    """Return what is shown after each piece and at the end, and whether a stop string came."""
    cutter = StopCutter(stop)
    shown = [cutter.push(piece) for piece in pieces]
    return [*shown, cutter.flush()], cutter.has_stopped


@pytest.mark.parametrize(
    ("stop", "pieces", "shown", "has_stopped"),
    [
        pytest.param((), ["a", "b"], ["a", "b", ""], False, id="none"),
        pytest.param(("",), ["a"], ["a", ""], False, id="empty-counts-as-none"),
        pytest.param(("\n\n",), ["a\n", "\nb"], ["a", "", ""], True, id="split-over-pieces"),
        pytest.param(("\n\n",), ["a\n", "b"], ["a", "\nb", ""], False, id="held-back-then-shown"),
        pytest.param(("\n\n",), ["a\n"], ["a", "\n"], False, id="shown-at-the-end"),
        pytest.param(("end", "e"), ["the end"], ["th", ""], True, id="the-first-of-two"),
        pytest.param(("aab",), ["aa", "ab"], ["", "a", ""], True, id="overlapping-start"),
    ],
)
def test_text_is_cut_at_the_first_stop_string(
    stop: tuple[str, ...], pieces: list[str], shown: list[str], has_stopped: bool
) -> None:
    assert cut(stop, pieces) == (shown, has_stopped)
