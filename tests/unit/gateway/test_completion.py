"""Cutting a text that comes in pieces at a stop string."""

from __future__ import annotations

from itertools import pairwise, product

import pytest

from tests.template_modules import template_module
from trtllm_forge.gateway.completion import StopCutter


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
        pytest.param(("b", "abc"), ["xabc"], ["xa", ""], True, id="the-first-complete"),
        pytest.param(("abcd", "bc"), ["xabcd"], ["xa", ""], True, id="the-first-complete-within"),
        pytest.param(("bc", "abc"), ["xabc"], ["x", ""], True, id="the-longer-of-one-end"),
        pytest.param(("aab",), ["aa", "ab"], ["", "a", ""], True, id="overlapping-start"),
    ],
)
def test_text_is_cut_at_the_first_stop_string(
    stop: tuple[str, ...], pieces: list[str], shown: list[str], has_stopped: bool
) -> None:
    assert cut(stop, pieces) == (shown, has_stopped)


@pytest.mark.parametrize(
    ("stop", "text"),
    [
        (("b", "abc"), "xabcy"),
        (("abcd", "bc"), "xabcdy"),
        (("bc", "abc"), "xabcy"),
        (("aab", "ab"), "aaaab"),
        (("abab", "ba"), "xababa"),
        (("abcx", "c"), "abcabcx"),
        (("never",), "nevneve"),
        (("\n\n", "\n def"), "a\n de\n\nb"),
    ],
)
def test_every_split_is_cut_where_the_models_cut(stop: tuple[str, ...], text: str) -> None:
    detokenizer = template_module("detokenizer")
    cutter = detokenizer.StopCutter(stop)
    wanted = cutter.push(text) + cutter.finish()

    for marks in product((False, True), repeat=len(text) - 1):
        cuts = [0, *(at for at, is_cut in enumerate(marks, start=1) if is_cut), len(text)]
        pieces = [text[left:right] for left, right in pairwise(cuts)]
        shown, has_stopped = cut(stop, pieces)
        assert ("".join(shown), has_stopped) == (wanted, cutter.stopped), pieces
