"""Text through a real Triton: what an engine writes in chunks comes out as the library decodes it.

``python -m scripts.check_text`` does the same with 1,000 strings and 200 files per family.
"""

from __future__ import annotations

import itertools
import sysconfig
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.tokenizer_builder import FAMILIES, family_tokenizer
from tests.triton.text_path import (
    FRONTS,
    PROTOCOLS,
    TextClient,
    random_texts,
    round_trips,
    serving_text,
    source_files,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.triton.served import Served

pytestmark = pytest.mark.triton

STRINGS = 12
FILES = 3
TEXT = "for name in names:\n\tprint(name, '你好 😀')"


@dataclass(frozen=True, kw_only=True)
class Family:
    """A served family of tokenizers."""

    tokenizer: Any
    served: Served
    client: TextClient


def some_texts() -> list[str]:
    stdlib = Path(sysconfig.get_paths()["stdlib"])
    files = source_files(3_000, [stdlib / "idlelib", stdlib / "json"])
    return random_texts(11, 4 * STRINGS) + [text for _, text in itertools.islice(files, FILES)]


@pytest.fixture(scope="module", params=FAMILIES)
def family(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Family]:
    tokenizer = family_tokenizer(request.param, [*some_texts(), TEXT])
    with serving_text(tmp_path_factory.mktemp("text"), tokenizer) as served:
        client = TextClient(served)
        yield Family(tokenizer=tokenizer, served=served, client=client)
        client.close()


def test_texts_come_back_unchanged_through_both_fronts_and_protocols(family: Family) -> None:
    decode, encode = family.tokenizer.decode, family.tokenizer.encode
    texts = [text for text in some_texts() if decode(encode(text).ids) == text]
    texts = texts[:STRINGS] + texts[-FILES:]
    result = round_trips(family.served, texts)
    assert result.streams == len(texts) * len(FRONTS) * len(PROTOCOLS)
    assert result.changed == []


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("front", FRONTS)
def test_a_continuation_is_what_it_adds_to_the_prompt(
    family: Family, front: str, protocol: str
) -> None:
    tokenizer = family.tokenizer
    ids = tokenizer.encode(TEXT).ids
    starts = [at for at in range(1, len(ids)) if tokenizer.decode(ids[at:]).isascii()][:3]
    for start in starts or [1, 2]:
        added = tokenizer.decode(ids + ids[start:])[len(tokenizer.decode(ids)) :]
        pieces = family.client.chunks(protocol, front, TEXT, top_k=start, seed=start)
        assert "".join(pieces) == added


@pytest.mark.parametrize("front", FRONTS)
def test_an_id_can_be_used_again_once_its_stream_has_ended(family: Family, front: str) -> None:
    for seed in range(3):
        pieces = family.client.chunks("grpc", front, TEXT, request_id="again", seed=seed)
        assert "".join(pieces) == TEXT


@pytest.mark.parametrize("front", FRONTS)
@pytest.mark.parametrize("several", ["beam_width", "num_return_sequences"])
def test_each_of_several_whole_answers_has_its_own_text(
    family: Family, front: str, several: str
) -> None:
    whole = {"stream": False, "exclude_input_in_output": True, several: 2}
    body = {"id": f"{front} {several}", "text_input": TEXT, "max_tokens": 500, **whole}
    texts: list[str] = []
    for answer in family.served.stream(front, **body):
        found = answer["text_output"]
        texts += found if isinstance(found, list) else [found]
    assert texts == [TEXT, TEXT]


@pytest.mark.parametrize("stops", [["me, '你"], ["me, '你好 ", "e, '", "zz"], ["😀'", "😀')"]])
def test_nothing_of_a_stop_string_leaks(family: Family, stops: list[str]) -> None:
    ends = [(TEXT.find(stop) + len(stop), TEXT.find(stop)) for stop in stops if stop in TEXT]
    for seed in range(6):
        pieces = family.client.chunks("http", "tensorrt_llm_bls", TEXT, stop_words=stops, seed=seed)
        assert "".join(pieces) == TEXT[: min(ends)[1]]


def test_a_character_cut_by_the_length_is_marked_by_bls_and_dropped_by_the_ensemble(
    family: Family,
) -> None:
    tokenizer = family.tokenizer
    ids = tokenizer.encode("a 😀").ids
    texts = {front: "" for front in FRONTS}
    for front in FRONTS:
        texts[front] = "".join(family.client.chunks("http", front, "a 😀", max_tokens=len(ids) - 1))
    whole = tokenizer.decode(ids[:-1])
    assert texts["tensorrt_llm_bls"] == whole
    assert texts["ensemble"] == whole.rstrip("\ufffd")
