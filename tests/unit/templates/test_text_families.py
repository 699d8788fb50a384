"""What the families of tokenizers do with a prompt, with marks and with files of source code."""

from __future__ import annotations

import functools
import itertools
import random
import sysconfig
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.template_modules import template_module
from tests.tokenizer_builder import CORPUS, END, FAMILIES, family_tokenizer
from tests.triton.text_path import random_texts, source_files

detokenizer = template_module("detokenizer")
quick = settings(max_examples=8, deadline=None, database=None, derandomize=True)

SPLITS = st.lists(st.integers(1, 6), min_size=1, max_size=20)
WORDS = st.text("abdefhnrtu .,\n\t你好é😀", max_size=30)
WITH_MARK = FAMILIES[1:]
FILES = 5


@functools.cache
def texts() -> list[str]:
    """Return random strings, and files of the two parts of Python with the most languages."""
    stdlib = Path(sysconfig.get_paths()["stdlib"])
    files = source_files(4_000, [stdlib / "idlelib", stdlib / "json"])
    return random_texts(5, 40) + [text for _, text in itertools.islice(files, FILES)]


@functools.cache
def tokenizer_of(family: str) -> Any:
    return family_tokenizer(family, [*CORPUS, *texts(), "abdefhnrtu"])


def streamed(
    family: str, prompt: list[int], ids: list[int], sizes: list[int], *, skip: bool = True
) -> str:
    token_text = detokenizer.TokenText(tokenizer_of(family), skip_special_tokens=skip)
    stream = detokenizer.IncrementalDetokenizer(token_text, prompt)
    rest, text = list(ids), ""
    for size in itertools.cycle(sizes):
        if not rest:
            return text + str(stream.finish())
        text += stream.push(rest[:size])
        rest = rest[size:]
    raise AssertionError


@pytest.mark.parametrize("skip", [True, False], ids=["special-skipped", "special-kept"])
@pytest.mark.parametrize("family", FAMILIES)
def test_text_after_a_prompt_is_what_it_adds_to_the_prompts_text(family: str, skip: bool) -> None:
    tokenizer = tokenizer_of(family)

    @quick
    @given(prompt=WORDS, text=WORDS, sizes=SPLITS)
    def check(prompt: str, text: str, sizes: list[int]) -> None:
        before = tokenizer.encode(f"def {prompt}").ids
        ids = tokenizer.encode(text, add_special_tokens=False).ids
        whole = tokenizer.decode(before + ids, skip_special_tokens=skip)
        shown = tokenizer.decode(before, skip_special_tokens=skip)
        assert shown + streamed(family, before, ids, sizes, skip=skip) == whole

    check()


@pytest.mark.parametrize("family", WITH_MARK)
def test_continuation_begins_with_its_space(family: str) -> None:
    tokenizer = tokenizer_of(family)
    before = tokenizer.encode("def").ids
    ids = tokenizer.encode("add", add_special_tokens=False).ids
    assert streamed(family, before, ids, [1]) == " add"


@pytest.mark.parametrize("family", WITH_MARK)
def test_continuation_of_a_prompt_that_nobody_told_begins_with_its_space(family: str) -> None:
    tokenizer = tokenizer_of(family)
    token_text = detokenizer.TokenText(tokenizer, skip_special_tokens=True)
    ids = tokenizer.encode("add", add_special_tokens=False).ids
    assert streamed(family, token_text.any_prompt, ids, [1]) == " add"


@pytest.mark.parametrize("family", WITH_MARK)
def test_ids_that_begin_as_a_prompt_does_are_a_text_of_their_own(family: str) -> None:
    ids = tokenizer_of(family).encode("def add").ids
    assert streamed(family, ids, ids, [2]) == "def add"


@pytest.mark.parametrize("family", FAMILIES)
def test_start_of_a_prompt_is_what_the_tokenizer_puts_before_it(family: str) -> None:
    tokenizer = tokenizer_of(family)
    token_text = detokenizer.TokenText(tokenizer, skip_special_tokens=True)
    mark = {"byte-level-bpe": [], "word-piece": ["[CLS]"]}.get(family, ["<s>"])
    assert [tokenizer.id_to_token(id_) for id_ in token_text.prompt_start] == mark


@pytest.mark.parametrize("family", FAMILIES)
def test_marks_and_added_tokens_in_the_middle_leave_the_text_around_them(family: str) -> None:
    tokenizer = tokenizer_of(family)
    text = f"def add\n{END}  return <|tool|> 😀{END}b"
    ids = tokenizer.encode(text).ids
    for skip in (True, False):
        whole = tokenizer.decode(ids, skip_special_tokens=skip)
        for sizes in ([1], [2, 1], [50]):
            assert streamed(family, [], ids, sizes, skip=skip) == whole


@pytest.mark.parametrize("family", FAMILIES)
def test_a_prompt_that_ends_inside_a_character_does_not_change_what_follows(family: str) -> None:
    tokenizer = tokenizer_of(family)
    half = tokenizer.encode("def ").ids + tokenizer.encode("\U0010fffd").ids[-4:-1]
    ids = tokenizer.encode("a + b", add_special_tokens=False).ids
    assert streamed(family, half, ids, [1]).endswith("a + b")


@pytest.mark.parametrize("family", FAMILIES)
def test_random_texts_and_source_files_stream_as_they_decode(family: str) -> None:
    tokenizer = tokenizer_of(family)
    chance = random.Random(3)
    for text in texts():
        ids = tokenizer.encode(text).ids
        sizes = [chance.randint(1, 9) for _ in range(20)]
        assert streamed(family, [], ids, sizes) == tokenizer.decode(ids)


def test_padding_and_ids_outside_the_vocabulary_have_no_text() -> None:
    tokenizer = tokenizer_of("byte-level-bpe")
    a = tokenizer.encode("a").ids
    assert streamed("byte-level-bpe", [], [*a, -1, 10**6, *a], [1]) == "aa"
