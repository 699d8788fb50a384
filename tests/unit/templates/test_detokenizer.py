from __future__ import annotations

import itertools
import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.template_modules import template_module
from tests.tokenizer_builder import (
    BYTE_FALLBACK,
    BYTE_LEVEL,
    END,
    EVERY_KIND,
    LLAMA_STYLE,
    WHOLE_RUNS,
    WITH_BYTE_RUNS,
    byte_token_ids,
    trained_tokenizer,
)

detokenizer = template_module("detokenizer")

REPLACEMENT = "\ufffd"
quick = settings(max_examples=25, deadline=None, database=None, derandomize=True)

# Any text with more than its share of what is hard: spaces, long characters, combining marks.
TEXT = st.text(
    st.one_of(
        st.characters(exclude_categories=["Cs"], exclude_characters="\ufffd"),
        st.sampled_from(" \n\t.,'#▁你好é\u0301😀🧑\u200d💻\u0085\u2028n't"),
    ),
    max_size=40,
)
SPLITS = st.lists(st.integers(1, 6), min_size=1, max_size=20)


class CountingTokenizer:
    """A real tokenizer that counts how often it decodes, and how many ids."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self.calls = 0
        self.ids = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tokenizer, name)

    def decode(self, ids: list[int], *, skip_special_tokens: bool) -> str:
        self.calls += 1
        self.ids += len(ids)
        return str(self._tokenizer.decode(ids, skip_special_tokens=skip_special_tokens))


def pieces(ids: list[int], sizes: list[int]) -> list[list[int]]:
    """Cut ids into pieces of these sizes, over and over."""
    cut: list[list[int]] = []
    rest = list(ids)
    for size in itertools.cycle(sizes):
        if not rest:
            return cut
        cut.append(rest[:size])
        rest = rest[size:]
    return cut


def streamed(tokenizer: Any, chunks: list[list[int]], *, skip: bool = True) -> list[str]:
    token_text = detokenizer.TokenText(tokenizer, skip_special_tokens=skip)
    stream = detokenizer.IncrementalDetokenizer(token_text)
    return [*(stream.push(chunk) for chunk in chunks), stream.finish()]


def random_ids(kind: str) -> st.SearchStrategy[list[int]]:
    # Beyond the vocabulary too: engines pad theirs, and decoding drops what it does not know.
    size = trained_tokenizer(kind).get_vocab_size()
    return st.lists(st.integers(0, size + 3), max_size=60)


@pytest.mark.parametrize("kind", EVERY_KIND)
def test_streamed_text_equals_decoding_all_ids_at_once(kind: str) -> None:
    tokenizer = trained_tokenizer(kind)

    @quick
    @given(text=TEXT, sizes=SPLITS)
    def check(text: str, sizes: list[int]) -> None:
        ids = tokenizer.encode(text, add_special_tokens=False).ids
        whole = tokenizer.decode(ids)
        assert "".join(streamed(tokenizer, pieces(ids, sizes))) == whole

    check()


@pytest.mark.parametrize("skip", [True, False], ids=["special-skipped", "special-kept"])
@pytest.mark.parametrize("kind", WHOLE_RUNS)
def test_streamed_text_of_any_ids_equals_decoding_them_at_once(kind: str, skip: bool) -> None:
    tokenizer = trained_tokenizer(kind)

    @quick
    @given(ids=random_ids(kind), sizes=SPLITS)
    def check(ids: list[int], sizes: list[int]) -> None:
        whole = tokenizer.decode(ids, skip_special_tokens=skip)
        assert "".join(streamed(tokenizer, pieces(ids, sizes), skip=skip)) == whole

    check()


@pytest.mark.parametrize("kind", [BYTE_LEVEL])
def test_streamed_text_of_random_bytes_equals_decoding_them_at_once(kind: str) -> None:
    tokenizer = trained_tokenizer(kind)
    # The bytes that make half characters, unfinished ones and impossible ones.
    single = [tokenizer.encode(text).ids[0] for text in "Aé你😀"]
    of_bytes = [tokenizer.token_to_id(c) for c in "ĠðŁĺĢä½łÃ©ÿÀ"]

    @quick
    @given(ids=st.lists(st.sampled_from([*single, *of_bytes]), max_size=40), sizes=SPLITS)
    def check(ids: list[int], sizes: list[int]) -> None:
        assert "".join(streamed(tokenizer, pieces(ids, sizes))) == tokenizer.decode(ids)

    check()


@pytest.mark.parametrize("kind", WITH_BYTE_RUNS)
def test_byte_run_differs_only_by_what_was_complete_before_its_first_invalid_byte(
    kind: str,
) -> None:
    """One invalid byte makes a whole run of byte tokens invalid, and some of it was out by then.

    So every run reads as the characters that were complete before it broke, and one
    replacement character for each byte after them; runs of valid bytes and all else are exact.
    """
    tokenizer = trained_tokenizer(kind)
    bytes_of = byte_token_ids(kind)
    plain = [id_ for id_ in range(tokenizer.get_vocab_size()) if id_ not in bytes_of]
    some_bytes = st.one_of(
        st.binary(max_size=12), st.text("é你😀A", max_size=4).map(lambda text: text.encode())
    )
    ids_of_byte = {byte: id_ for id_, byte in bytes_of.items()}
    part = st.one_of(
        some_bytes.map(lambda run: [ids_of_byte[byte] for byte in run]),
        st.lists(st.sampled_from(plain), max_size=4),
    )

    @quick
    @given(parts=st.lists(part, max_size=4), sizes=SPLITS)
    def check(parts: list[list[int]], sizes: list[int]) -> None:
        ids = [id_ for part in parts for id_ in part if tokenizer.id_to_token(id_) != END]
        text = "".join(streamed(tokenizer, pieces(ids, sizes)))
        pattern = expected_pattern(tokenizer, ids, bytes_of)
        assert re.fullmatch(pattern, text, re.DOTALL), (text, pattern)

    check()


def expected_pattern(tokenizer: Any, ids: list[int], bytes_of: dict[int, int]) -> str:
    """Return a pattern of the texts that streaming may give: see the test above."""
    marks: list[str] = []
    alternatives: dict[str, str] = {}
    known: list[int] = []
    for is_bytes, group in itertools.groupby(ids, lambda id_: id_ in bytes_of):
        run = list(group)
        raw = bytes(bytes_of[id_] for id_ in run) if is_bytes else b""
        if not is_bytes or is_valid(raw):
            known += run
            continue
        # A run of one invalid byte stands for it in the reference, so that spaces stay right.
        mark = chr(0xE000 + len(marks))
        marks.append(mark)
        known += mark_ids(bytes_of, mark)
        alternatives[mark] = "(?:" + "|".join(map(re.escape, run_texts(raw))) + ")"
    reference: str = re.escape(tokenizer.decode(known))
    for mark, alternative in alternatives.items():
        reference = reference.replace(re.escape(mark), alternative)
    return reference


def mark_ids(bytes_of: dict[int, int], mark: str) -> list[int]:
    ids_of_byte = {byte: id_ for id_, byte in bytes_of.items()}
    return [ids_of_byte[byte] for byte in mark.encode()]


def is_valid(raw: bytes) -> bool:
    try:
        raw.decode()
    except UnicodeDecodeError:
        return False
    return True


def run_texts(raw: bytes) -> list[str]:
    """Return the texts of an invalid run, by how many of its first characters were out."""
    texts, end = [REPLACEMENT * len(raw)], 0
    prefix = ""
    while True:
        step = next(
            (n for n in range(1, 5) if is_valid(raw[end : end + n]) and end + n <= len(raw)), 0
        )
        if not step:
            return texts
        prefix += raw[end : end + step].decode()
        end += step
        texts.append(prefix + REPLACEMENT * (len(raw) - end))


def test_ids_pushed_one_by_one_show_each_character_as_soon_as_its_last_byte_is_there() -> None:
    tokenizer = trained_tokenizer(BYTE_LEVEL)
    ids = [tokenizer.token_to_id(token) for token in ("A", "ð", "Ł", "ĺ", "Ģ", "B")]
    assert streamed(tokenizer, [[id_] for id_ in ids]) == ["A", "", "", "", "😀", "B", ""]


def test_long_run_of_byte_tokens_stays_exact() -> None:
    tokenizer = trained_tokenizer(LLAMA_STYLE)
    ids_of_byte = {byte: id_ for id_, byte in byte_token_ids(LLAMA_STYLE).items()}
    text = "日本語のテキスト" * 20
    ids = [ids_of_byte[byte] for byte in text.encode()]
    assert "".join(streamed(tokenizer, [[id_] for id_ in ids])) == text


def test_special_token_between_the_bytes_of_a_character_does_not_break_it() -> None:
    tokenizer = trained_tokenizer(BYTE_LEVEL)
    end = tokenizer.token_to_id(END)
    ids = [tokenizer.token_to_id(token) for token in ("ð", "Ł", "ĺ", "Ģ")]
    chunks = [[ids[0]], [end] * 9, [ids[1]], [end], ids[2:]]
    assert "".join(streamed(tokenizer, chunks)) == "😀"


@pytest.mark.parametrize("kind", EVERY_KIND)
def test_no_chunk_shows_a_replacement_character_that_the_whole_text_has_not(kind: str) -> None:
    tokenizer = trained_tokenizer(kind)

    @quick
    @given(text=TEXT, sizes=SPLITS)
    def check(text: str, sizes: list[int]) -> None:
        ids = tokenizer.encode(text, add_special_tokens=False).ids
        whole, shown = tokenizer.decode(ids), ""
        for chunk in streamed(tokenizer, pieces(ids, sizes)):
            shown += chunk
            assert whole.startswith(shown)

    check()


@pytest.mark.parametrize("kind", EVERY_KIND)
def test_ids_decoded_grow_linearly_with_the_sequence(kind: str) -> None:
    ids = trained_tokenizer(kind).encode("The quick brown fox 你好 😀, naïve. " * 40).ids
    costs = []
    for count in (100, 400):
        counting = CountingTokenizer(trained_tokenizer(kind))
        streamed(counting, [[id_] for id_ in ids[:count]])
        costs.append((counting.calls / count, counting.ids / count))
    (few_calls, few_ids), (many_calls, many_ids) = costs
    assert many_calls <= 1.2 * few_calls
    assert many_ids <= 1.2 * few_ids
    assert many_calls < 6
    assert many_ids < 24


@pytest.mark.parametrize("kind", [BYTE_LEVEL, LLAMA_STYLE])
def test_endless_invalid_bytes_cost_no_more_each_the_longer_they_last(kind: str) -> None:
    tokenizer = trained_tokenizer(kind)
    bad = tokenizer.token_to_id("ÿ" if kind == BYTE_LEVEL else "<0xFF>")
    costs = []
    for count in (200, 800):
        counting = CountingTokenizer(tokenizer)
        assert "".join(streamed(counting, [[bad]] * count)) == REPLACEMENT * count
        costs.append(counting.ids / count)
    assert costs[1] <= 1.5 * costs[0]


def test_a_replacement_character_that_the_text_holds_is_not_held_back() -> None:
    for kind in (BYTE_LEVEL, BYTE_FALLBACK, LLAMA_STYLE):
        tokenizer = trained_tokenizer(kind)
        ids = tokenizer.encode(f"a{REPLACEMENT}").ids
        assert streamed(tokenizer, [ids]) == [f"a{REPLACEMENT}", ""]


def test_chunk_after_a_long_push_costs_no_more_than_after_a_short_one() -> None:
    tokenizer = trained_tokenizer(BYTE_LEVEL)
    ids = tokenizer.encode("for index in range(10): print(index) " * 30).ids
    counting = CountingTokenizer(tokenizer)
    token_text = detokenizer.TokenText(counting, skip_special_tokens=True)
    stream = detokenizer.IncrementalDetokenizer(token_text)
    stream.push(ids)
    before = counting.ids
    stream.push(ids[:1])
    assert counting.ids - before <= 40


def cut_text(stops: list[str], chunks: list[str]) -> tuple[list[str], bool]:
    cutter = detokenizer.StopCutter(stops)
    out = [cutter.push(chunk) for chunk in chunks]
    return [*out, cutter.finish()], cutter.stopped


def first_stop(text: str, stops: list[str]) -> int | None:
    """Return where the text is cut: before the stop string that is complete first."""
    ends = [(text.find(stop) + len(stop), text.find(stop)) for stop in stops if stop in text]
    return min(ends)[1] if ends else None


@settings(max_examples=100, deadline=None, database=None, derandomize=True)
@given(
    text=st.text("ab\n你", max_size=30),
    stops=st.lists(st.text("ab\n你", min_size=1, max_size=4), min_size=1, max_size=3),
    sizes=SPLITS,
)
def test_text_is_cut_before_the_first_complete_stop_string_however_it_comes_in_pieces(
    text: str, stops: list[str], sizes: list[int]
) -> None:
    chunks = ["".join(map(chr, piece)) for piece in pieces([ord(c) for c in text], sizes)]
    shown, stopped = cut_text(stops, chunks)
    at = first_stop(text, stops)
    assert "".join(shown) == text[:at]
    assert stopped == (at is not None)


def test_stop_string_that_is_complete_first_wins_over_one_that_began_earlier() -> None:
    assert cut_text(["abc", "b"], ["abc"]) == (["a", ""], True)
    assert cut_text(["abc", "b"], ["a", "b", "c"]) == (["", "a", "", ""], True)


def test_start_of_a_stop_string_is_held_back_and_given_when_the_text_ends() -> None:
    assert cut_text(["</s>"], ["hi </", "s"]) == (["hi ", "", "</s"], False)


def test_text_without_stop_strings_passes_at_once() -> None:
    assert cut_text(["", ""], ["a", "b"]) == (["a", "b", ""], False)
