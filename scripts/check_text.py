"""Streams texts through the text path on a real Triton, and counts those that come back changed.

1,000 random Unicode strings and 200 source files of several languages, for four families of
tokenizers, through both fronts, by HTTP and by gRPC: ``python -m scripts.check_text``. The engine
is a stand-in that repeats its prompt in chunks of random sizes. A text that the tokenizer
library itself does not give back is replaced by another, and counted.
"""

from __future__ import annotations

import argparse
import collections
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.tokenizer_builder import FAMILIES, family_tokenizer
from tests.triton.text_path import random_texts, round_trips, serving_text, source_files

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

LARGEST_FILE_BYTES = 8_000


def main(arguments: list[str]) -> int:
    """Check each family and print a line for each; return 1 when a text was changed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--strings", type=int, default=1000)
    parser.add_argument("--files", type=int, default=200)
    parser.add_argument("--families", nargs="+", default=FAMILIES, choices=FAMILIES)
    options = parser.parse_args(arguments)
    spare = random_texts(2024, 4 * options.strings)
    files = _some(source_files(LARGEST_FILE_BYTES), 3 * options.files)
    changed = sum(check_family(family, spare, files, options) for family in options.families)
    return 1 if changed else 0


def check_family(
    family: str, spare: Sequence[str], files: Sequence[tuple[Path, str]], options: Any
) -> int:
    """Print what came back for one family; return how many were changed or missing."""
    tokenizer = family_tokenizer(family, [*spare, *(text for _, text in files)])
    strings = [text for text in spare if gives_back(tokenizer, text)][: options.strings]
    kept = [(path, text) for path, text in files if gives_back(tokenizer, text)]
    kept = kept[: options.files]
    texts = [*strings, *(text for _, text in kept)]
    began = time.monotonic()
    with (
        tempfile.TemporaryDirectory() as folder,
        serving_text(Path(folder), tokenizer) as served,
    ):
        result = round_trips(served, texts)
    languages = collections.Counter(path.suffix[1:] for path, _ in kept)
    print(
        f"{family}: {len(strings)} strings and {len(kept)} files of {len(languages)} languages, "
        f"{result.streams} streams, {result.chunks} chunks, {result.characters} characters, "
        f"{len(result.changed)} changed, {time.monotonic() - began:.0f} s"
    )
    print("  files: " + ", ".join(f"{count} {name}" for name, count in languages.most_common()))
    passed_over = [
        f"{_passed_over(tokenizer, spare, len(strings))} strings",
        f"{_passed_over(tokenizer, [text for _, text in files], len(kept))} files",
    ]
    print(f"  passed over, as the library itself changes them: {', '.join(passed_over)}")
    for front, protocol, text, chunks in result.changed[:5]:
        got = "".join(chunks)
        at = next((i for i, pair in enumerate(zip(got, text, strict=False)) if len({*pair}) > 1), 0)
        print(f"  changed: {front} {protocol} {text[at : at + 40]!r} came as {got[at : at + 40]!r}")
    missing = options.strings + options.files - len(texts)
    return len(result.changed) + int(missing)


def gives_back(tokenizer: Any, text: str) -> bool:
    """Return whether encoding and decoding all at once leaves a text as it is."""
    return bool(tokenizer.decode(tokenizer.encode(text).ids) == text)


def _passed_over(tokenizer: Any, texts: Sequence[str], wanted: int) -> int:
    seen = kept = 0
    for text in texts:
        if kept == wanted:
            break
        seen += 1
        kept += gives_back(tokenizer, text)
    return seen - kept


def _some(files: Iterator[tuple[Path, str]], count: int) -> list[tuple[Path, str]]:
    return [file for file, _ in zip(files, range(count), strict=False)]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
