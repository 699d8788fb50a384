"""Which known word a misspelt one was meant to be."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

_SIMILAR = 0.86


def distance(one: str, other: str) -> int:
    """Return the number of letters to add, drop, change or swap with a neighbour."""
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


def plain(word: str) -> str:
    """Return a word without case and separators."""
    return word.lower().replace("-", "").replace("_", "").replace(" ", "")


def nearest_words(word: str, known: Iterable[str]) -> tuple[list[str], bool]:
    """Return the known words that were likely meant, and whether there is just one for certain.

    One is certain when it alone differs in nothing but case and separators, or in one letter.
    """
    words = list(known)
    same = [other for other in words if plain(other) == plain(word)]
    if same:
        return same, len(same) == 1
    close = [w for w in words if abs(len(w) - len(word)) <= 1 and distance(word, w) == 1]
    if close:
        return close, len(close) == 1
    return difflib.get_close_matches(word, words, n=1, cutoff=_SIMILAR), False
