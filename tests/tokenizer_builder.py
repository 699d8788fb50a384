"""Trains tokenizers on a few sentences: one of each kind of decoder that checkpoints have."""

from __future__ import annotations

import functools
from typing import Any

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

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
EVERY_KIND = (BYTE_LEVEL, METASPACE, BYTE_FALLBACK, LLAMA_STYLE, WORD_PIECE)
WITH_BYTE_RUNS = (BYTE_FALLBACK, LLAMA_STYLE)
WHOLE_RUNS = (BYTE_LEVEL, METASPACE, WORD_PIECE)
"""Kinds in which one invalid byte does not change how the bytes around it read."""


@functools.cache
def trained_tokenizer(kind: str) -> Any:
    """Return a small tokenizer of a kind, trained once per test run."""
    if kind == BYTE_LEVEL:
        return _byte_level()
    if kind == WORD_PIECE:
        return _word_piece()
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
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = {
        METASPACE: decoders.Metaspace(),
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
    import json

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
