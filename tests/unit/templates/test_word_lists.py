from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.template_modules import template_module

word_lists = template_module("word_lists")
request_reader = template_module("request_reader")

IDS_OF = {"stop": [5, 6], "end": [7], "three": [1, 2, 3], "nothing": []}


def encoded(rows: list[list[str]], batch_size: int) -> Any:
    tensor = word_lists.encode_word_list(rows, IDS_OF, batch_size)
    assert tensor.dtype == np.int32
    return tensor.tolist()


def test_row_0_holds_the_ids_and_row_1_where_each_word_ends() -> None:
    assert encoded([["stop", "end", "three"]], 1) == [[[5, 6, 7, 1, 2, 3], [2, 3, 6, -1, -1, -1]]]


def test_shorter_rows_are_padded_with_0_and_ends_with_minus_1() -> None:
    assert encoded([["end"], ["stop", "end"], []], 3) == [
        [[7, 0, 0], [1, -1, -1]],
        [[5, 6, 7], [2, 3, -1]],
        [[0, 0, 0], [-1, -1, -1]],
    ]


def test_absent_list_has_width_0_and_an_empty_one_width_1() -> None:
    assert word_lists.encode_word_list([], IDS_OF, 2).shape == (2, 2, 0)
    assert encoded([[]], 1) == [[[0], [-1]]]


def test_word_without_ids_is_dropped() -> None:
    assert encoded([["nothing", "end"]], 1) == [[[7], [1]]]


def test_empty_words_which_old_clients_send_are_dropped() -> None:
    rows = np.array([[b"", "größe".encode()], [b"", b""]], dtype=np.object_)
    assert word_lists.split_words(rows) == [["größe"], []]
    assert word_lists.split_words(None) == []


def test_word_that_is_no_utf_8_is_an_error() -> None:
    with pytest.raises(UnicodeDecodeError):
        word_lists.split_words(np.array([[b"\xff"]], dtype=np.object_))


@settings(max_examples=50, deadline=None, database=None, derandomize=True)
@given(
    rows=st.lists(
        st.lists(st.lists(st.integers(0, 50_000), min_size=1, max_size=4), max_size=4),
        min_size=1,
        max_size=4,
    )
)
def test_encoded_words_are_read_back_by_the_engine_model(rows: list[list[list[int]]]) -> None:
    ids_of = {str(ids): ids for row in rows for ids in row}
    tensor = word_lists.encode_word_list(
        [[str(ids) for ids in row] for row in rows], ids_of, len(rows)
    )
    read = [request_reader.decode_word_list(row) for row in tensor]
    assert read == [tuple(tuple(ids) for ids in row) for row in rows]


@pytest.mark.parametrize(
    ("ids", "ends", "at", "after"),
    [([5, 6], [3, -1], 3, 0), ([5, 6], [1, 1], 1, 1), ([5, 6], [2, 1], 1, 2), ([5], [0], 0, 0)],
    ids=["beyond", "same", "falling", "zero"],
)
def test_word_list_whose_ends_do_not_fit_is_an_error_that_says_where(
    ids: list[int], ends: list[int], at: int, after: int
) -> None:
    message = (
        f"a word list ends a word at {at} after one that ended at {after}; "
        f"ends have to rise and stay within {len(ids)}"
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        request_reader.decode_word_list(np.array([ids, ends], dtype=np.int32))
