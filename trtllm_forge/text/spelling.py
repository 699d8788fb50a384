"""Finds the known word closest to a misspelt one."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

_SIMILAR = 0.86


def nearest(word: str, known: Iterable[str], *, cutoff: float = 0.6) -> str | None:
    """Return the known word closest to a misspelt one, or None when none is close.

    Args:
        word: The misspelt word.
        known: The candidates.
        cutoff: Least similarity, from 0 to 1; with 0 there is always a match.
    """
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=cutoff)
    return close[0] if close else None


def nearest_words(word: str, known: Iterable[str]) -> tuple[list[str], bool]:
    """Return the known words that were likely meant, and whether the only one is certain.

    It is certain if it is the only one that differs just in case and separators, or in one letter.
    """
    words = list(known)
    same = [other for other in words if _plain(other) == _plain(word)]
    if same:
        return same, len(same) == 1
    close = [w for w in words if abs(len(w) - len(word)) <= 1 and _distance(word, w) == 1]
    if close:
        return close, len(close) == 1
    similar = nearest(word, words, cutoff=_SIMILAR)
    return [similar] if similar else [], False


def _distance(one: str, other: str) -> int:
    """Return the edit distance: letters to add, drop, change or swap with a neighbour."""
    rows = [list(range(len(other) + 1))]
    for i, a in enumerate(one, start=1):
        row = [i]
        for j, b in enumerate(other, start=1):
            cost = min(rows[-1][j] + 1, row[-1] + 1, rows[-1][j - 1] + (a != b))
            if i > 1 and j > 1 and a == other[j - 2] and one[i - 2] == b:
                cost = min(cost, rows[-2][j - 2] + 1)
            row.append(cost)
        rows.append(row)
    return rows[-1][-1]


def _plain(word: str) -> str:
    """Return a word without case and separators."""
    return word.lower().replace("-", "").replace("_", "").replace(" ", "")
