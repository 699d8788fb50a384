"""Trains tokenizers on a few sentences: one of each kind of decoder that checkpoints have."""

from __future__ import annotations

import functools
import json
from typing import TYPE_CHECKING, Any

from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

CORPUS = (
    "def add(a, b):\n    return a + b  # the sum\n",
    "The quick brown fox doesn't jump. Over, the lazy dog!",
    "for index in range(10):\n\tprint(index, end=' ')\n",
    "größer naïve café 你好 世界 😀 e\u0301",
) * 4
END = "<|end|>"

BYTE_LEVEL = "byte-level"
METASPACE = "metaspace"
BYTE_FALLBACK = "byte-fallback"
LLAMA_STYLE = "byte-fallback-with-strip"
WORD_PIECE = "word-piece"
UNIGRAM = "unigram-with-byte-fallback"
METASPACE_FIRST = "metaspace-before-the-first-word"
METASPACE_NEVER = "metaspace-before-no-word"
WORD_END = "word-end-suffix"
EVERY_KIND = (
    *(BYTE_LEVEL, METASPACE, BYTE_FALLBACK, LLAMA_STYLE, WORD_PIECE),
    *(UNIGRAM, METASPACE_FIRST, METASPACE_NEVER, WORD_END),
)
WITH_BYTE_RUNS = (BYTE_FALLBACK, LLAMA_STYLE, UNIGRAM)
WHOLE_RUNS = (BYTE_LEVEL, METASPACE, WORD_PIECE, METASPACE_FIRST, METASPACE_NEVER, WORD_END)
"""Kinds in which one invalid byte does not change how the bytes around it read."""


@functools.cache
def trained_tokenizer(kind: str) -> Any:
    """Return a small tokenizer of a kind, trained once per test run."""
    if kind == BYTE_LEVEL:
        return _byte_level()
    if kind == WORD_PIECE:
        return _word_piece()
    if kind == UNIGRAM:
        return unigram(CORPUS)
    if kind == WORD_END:
        return _word_end()
    return _sentence_piece(kind)


def byte_token_ids(kind: str) -> dict[int, int]:
    """Return the byte that each byte token of a byte-fallback tokenizer stands for."""
    tokenizer = trained_tokenizer(kind)
    return {tokenizer.token_to_id(f"<0x{byte:02X}>"): byte for byte in range(256)}


def _byte_level() -> Any:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=[END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    return tokenizer


def _sentence_piece(kind: str) -> Any:
    has_bytes = kind in WITH_BYTE_RUNS
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=has_bytes, fuse_unk=True))
    if kind == LLAMA_STYLE:
        tokenizer.normalizer = normalizers.Sequence(
            [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
        )
    else:
        scheme = {METASPACE_FIRST: "first", METASPACE_NEVER: "never"}.get(kind, "always")
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme)
    tokenizer.decoder = {
        METASPACE: decoders.Metaspace(),
        METASPACE_FIRST: decoders.Metaspace(prepend_scheme="first"),
        METASPACE_NEVER: decoders.Metaspace(prepend_scheme="never"),
        BYTE_FALLBACK: decoders.Sequence(
            [decoders.ByteFallback(), decoders.Metaspace(), decoders.Fuse()]
        ),
        LLAMA_STYLE: decoders.Sequence(
            [
                decoders.Replace("▁", " "),
                decoders.ByteFallback(),
                decoders.Fuse(),
                decoders.Strip(" ", 1, 0),
            ]
        ),
    }[kind]
    byte_tokens = [f"<0x{byte:02X}>" for byte in range(256)] if has_bytes else []
    trainer = trainers.BpeTrainer(
        vocab_size=400 if has_bytes else 200,
        special_tokens=["<unk>", END, *byte_tokens],
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    if not has_bytes:
        return tokenizer
    return _with_plain_tokens(tokenizer, byte_tokens)


def _with_plain_tokens(tokenizer: Any, tokens: list[str]) -> Any:
    """Return the tokenizer with these tokens no longer special: training can add no others."""
    document = json.loads(tokenizer.to_str())
    document["added_tokens"] = [
        token for token in document["added_tokens"] if token["content"] not in tokens
    ]
    return Tokenizer.from_str(json.dumps(document))


def _word_piece() -> Any:
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece(prefix="##", cleanup=True)
    trainer = trainers.WordPieceTrainer(
        vocab_size=200, special_tokens=["[UNK]", END], show_progress=False
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    return tokenizer


def _word_end() -> Any:
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", end_of_word_suffix="</w>"))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.BPEDecoder()
    trainer = trainers.BpeTrainer(
        vocab_size=200,
        special_tokens=["<unk>", END],
        end_of_word_suffix="</w>",
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    return tokenizer


def unigram(corpus: Iterable[str]) -> Any:
    """Return a tokenizer as SentencePiece's Unigram models become: pieces, then bytes."""
    trained = Tokenizer(models.Unigram())
    trained.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=400, special_tokens=["<unk>", END], unk_token="<unk>", show_progress=False
    )
    trained.train_from_iterator(corpus, trainer)
    pieces = json.loads(trained.to_str())["model"]["vocab"]
    known = {piece for piece, _ in pieces}
    lowest = min(score for _, score in pieces) - 1.0
    bytes_ = [(f"<0x{byte:02X}>", lowest) for byte in range(256)]
    vocabulary = [(piece, score) for piece, score in pieces] + [b for b in bytes_ if b not in known]
    tokenizer = Tokenizer(models.Unigram(vocabulary, unk_id=0, byte_fallback=True))
    tokenizer.add_special_tokens([END])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Sequence(
        [decoders.ByteFallback(), decoders.Metaspace(), decoders.Fuse()]
    )
    return tokenizer


FAMILIES = ("byte-level-bpe", "unigram-metaspace", "llama-bpe", "word-piece")


def family_tokenizer(family: str, texts: Iterable[str]) -> Any:
    """Return a tokenizer of a family as checkpoints have it, able to spell every text.

    All but the byte-level one put a mark before a prompt.
    """
    if family == "byte-level-bpe":
        return trained_tokenizer(BYTE_LEVEL)
    if family == "word-piece":
        return _with_start(_spelling_word_piece(texts), "[CLS]")
    kind = UNIGRAM if family == "unigram-metaspace" else LLAMA_STYLE
    return _with_start(Tokenizer.from_str(trained_tokenizer(kind).to_str()), "<s>")


def _with_start(tokenizer: Any, start: str) -> Any:
    tokenizer.add_special_tokens([start])
    tokenizer.add_tokens([AddedToken("<|tool|>", normalized=False)])
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{start} $A", special_tokens=[(start, tokenizer.token_to_id(start))]
    )
    return tokenizer


def _spelling_word_piece(texts: Iterable[str]) -> Any:
    """Return a WordPiece whose words keep all spaces but the one that its decoder puts back."""
    letters = sorted({letter for text in texts for letter in text})
    words = ["def", "return", "import", "the", "##er", "##ing", "##tion", "##  ", "##    "]
    pieces = ["[UNK]", END, *letters, *(f"##{letter}" for letter in letters), *words]
    vocabulary = {piece: id_ for id_, piece in enumerate(dict.fromkeys(pieces))}
    tokenizer = Tokenizer(
        models.WordPiece(vocabulary, unk_token="[UNK]", max_input_chars_per_word=400)
    )
    tokenizer.add_special_tokens(["[UNK]", END])
    one_space = Regex(r"(?<=[\s\S]) (?=[^ ])")
    tokenizer.pre_tokenizer = pre_tokenizers.Split(one_space, behavior="removed")
    tokenizer.decoder = decoders.WordPiece(prefix="##", cleanup=False)
    return tokenizer
