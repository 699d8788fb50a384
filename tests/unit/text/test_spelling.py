from __future__ import annotations

import pytest

from trtllm_forge.text.spelling import nearest, nearest_words


def test_nearest_word_is_found_or_none() -> None:
    assert nearest("serv", ["serve", "stop"]) == "serve"
    assert nearest("quantum", ["serve", "stop"]) is None
    assert nearest("quantum", ["serve", "stop"], cutoff=0.0) is not None
    assert nearest("serve", []) is None


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        pytest.param("Max-Beam_Width", (["max_beam_width"], True), id="case-and-separators"),
        pytest.param("max_baem_width", (["max_beam_width"], True), id="two-letters-swapped"),
        pytest.param("max_beams_widths", (["max_beam_width"], False), id="similar"),
        pytest.param("tokenizer", ([], False), id="none"),
    ],
)
def test_nearest_words_say_whether_one_is_certain(
    word: str, expected: tuple[list[str], bool]
) -> None:
    assert nearest_words(word, ["max_beam_width", "max_batch_size"]) == expected
