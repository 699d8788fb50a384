"""A tokenizer folder, read without reading a large file.

A ``tokenizer.json`` of 10 MB takes longer to parse than all rules together. Of a large one the
ends are looked at: enough to tell JSON from a pointer file of Git LFS or from half a download, and
for the added tokens, which stand at its beginning. The vocabulary is written by rising ids, so that
its last entry, before the merges or at the end, has the largest.
"""

from __future__ import annotations

import json
import mmap
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, BinaryIO

from trtllm_forge.check.files import read_json
from trtllm_forge.errors import reason_of

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from trtllm_forge.check.files import ResolvedPath

TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "spiece.model", "vocab.txt")
_WHOLE_BYTES = 512 << 10
_HEAD_BYTES = 128 << 10
_TAIL_BYTES = 4 << 10
_SEARCHED_BYTES = 64 << 20
_LAST_ID = re.compile(rb'"\s*:\s*(\d+)\s*\}[\s,}]*\Z')
_ADDED_ID = re.compile(rb'"id"\s*:\s*(\d+)\s*,\s*"content"\s*:')


@dataclass(frozen=True, kw_only=True)
class TokenizerFolder:
    """A folder that ``tokenizer_dir`` names.

    Attributes:
        place: Where it is.
        names: What lies in it.
        config: Its ``tokenizer_config.json``.
        mistakes: Of the files that cannot be read, why.
        largest_id: The largest token id that was seen; there may be larger ones.
        special_ids: Ids of end and pad tokens by their name in the configuration.
    """

    place: ResolvedPath
    names: tuple[str, ...]
    config: Mapping[str, Any]
    mistakes: Mapping[str, str]
    largest_id: int | None
    special_ids: Mapping[str, int]

    @property
    def is_there(self) -> bool:
        """Return whether the folder exists."""
        return self.place.local is not None and self.place.local.is_dir()

    @property
    def has_tokenizer(self) -> bool:
        """Return whether one of the files that make a tokenizer is there."""
        return any(name in self.names for name in TOKENIZER_FILES)

    @property
    def has_chat_template(self) -> bool:
        """Return whether a conversation can be put into words for it."""
        files = ("chat_template.jinja", "chat_template.json")
        return bool(self.config.get("chat_template")) or any(f in self.names for f in files)

    def special_token(self, name: str) -> str:
        """Return a special token's text, or nothing."""
        token = self.config.get(name)
        content = token.get("content") if isinstance(token, dict) else token
        return content if isinstance(content, str) else ""


def read_tokenizer_folder(place: ResolvedPath) -> TokenizerFolder:
    """Return what lies at ``place``."""
    names: tuple[str, ...] = ()
    documents: dict[str, dict[str, Any]] = {}
    mistakes: dict[str, str] = {}
    ids: dict[str, int] = {}
    largest: list[int] = []
    folder = place.local
    if folder is not None and folder.is_dir():
        names = tuple(sorted(path.name for path in folder.iterdir()))
        for name in ("tokenizer_config.json", "special_tokens_map.json", "generation_config.json"):
            if name in names:
                documents[name], error = read_json(folder / name)
                if error:
                    mistakes[name] = error
        if "tokenizer.json" in names:
            error, added = _read_tokenizer(folder / "tokenizer.json")
            ids |= added
            if error:
                mistakes["tokenizer.json"] = error
    config = {
        **documents.get("special_tokens_map.json", {}),
        **documents.get("tokenizer_config.json", {}),
    }
    for text, number in _added_tokens(config):
        ids[text] = number
    largest = list(ids.values())
    found = TokenizerFolder(
        place=place,
        names=names,
        config=config,
        mistakes=mistakes,
        largest_id=max(largest, default=None),
        special_ids={},
    )
    special = {
        name: ids[found.special_token(name)]
        for name in ("eos_token", "pad_token")
        if found.special_token(name) in ids
    }
    return TokenizerFolder(
        place=place,
        names=names,
        config=config,
        mistakes=mistakes,
        largest_id=found.largest_id,
        special_ids=special,
    )


def _added_tokens(config: Mapping[str, Any]) -> list[tuple[str, int]]:
    added = config.get("added_tokens_decoder")
    if not isinstance(added, dict):
        return []
    return [
        (str(token.get("content")), int(number))
        for number, token in added.items()
        if number.isdecimal() and isinstance(token, dict)
    ]


def _read_tokenizer(path: Path) -> tuple[str, dict[str, int]]:
    """Return why a ``tokenizer.json`` is none, and the token ids that are seen."""
    size = path.stat().st_size
    if size <= _WHOLE_BYTES:
        document, error = read_json(path)
        return error, {} if error else _vocabulary(document)
    try:
        with path.open("rb") as stream:
            head = stream.read(_HEAD_BYTES)
            last = _last_entry(stream) if size <= _SEARCHED_BYTES else None
            stream.seek(size - _TAIL_BYTES)
            tail = stream.read()
    except OSError as error:
        return reason_of(error), {}
    if not head.lstrip().startswith(b"{"):
        return "it does not begin as a JSON object", {}
    if not tail.rstrip().endswith(b"}"):
        return "it ends before the JSON object does", {}
    ids = [*map(int, _ADDED_ID.findall(head)), *([] if last is None else [last])]
    return "", {f"#{n}": n for n in ids}


def _last_entry(stream: BinaryIO) -> int | None:
    """Return the id of a vocabulary's last entry, None where it is no table of ids."""
    with mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content:
        vocabulary = content.find(b'"vocab"')
        merges = content.find(b'"merges"', max(vocabulary, 0))
        end = merges if merges >= 0 else len(content)
        found = _LAST_ID.search(content[max(end - _TAIL_BYTES, 0) : end])
    return None if vocabulary < 0 or found is None else int(found.group(1))


def _vocabulary(document: Mapping[str, Any]) -> dict[str, int]:
    ids: dict[str, int] = {}
    model = document.get("model")
    vocabulary = model.get("vocab") if isinstance(model, dict) else None
    if isinstance(vocabulary, dict):
        ids.update({text: n for text, n in vocabulary.items() if isinstance(n, int)})
    elif isinstance(vocabulary, list):
        ids.update({json.dumps(entry): n for n, entry in enumerate(vocabulary)})
    added = document.get("added_tokens")
    for token in added if isinstance(added, list) else ():
        if isinstance(token, dict) and isinstance(token.get("id"), int):
            ids[str(token.get("content"))] = token["id"]
    return ids
