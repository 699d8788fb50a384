"""Where prompts come from: a file, a built-in task, or as many tokens as asked for.

Built-in and synthetic prompts differ from each other in their first line, so that no request
finds another's KV blocks by accident. A file's are sent as they are, again from the start when
more are needed. Lines of a ``.jsonl`` file are objects::

    {"prompt": "def add(a, b):", "suffix": "return total", "output_tokens": 32}

of which only ``prompt`` must be there; any other file has a prompt per line.
"""

from __future__ import annotations

import json
import random
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from trtllm_forge.checkpoint.fim import assemble_fim_prompt
from trtllm_forge.errors import ConfigError, unreadable
from trtllm_forge.files.resources import data_path

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

    from trtllm_forge.checkpoint.fim import FimTemplate

Task = Literal["completion", "fim", "edit"]

TASK_OUTPUT_TOKENS: dict[Task, int] = {"completion": 64, "fim": 32, "edit": 128}
DEFAULT_OUTPUT_TOKENS = 64
_MOST_TRIES = 8


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """One prompt, and how many tokens to ask for."""

    text: str
    output_tokens: int


@dataclass(frozen=True, kw_only=True)
class Prompts:
    """A source of prompts without end.

    Attributes:
        name: What they are, for the report.
        of: Gives the prompt for the number of a load and of a request in it. The same request of
            two loads is the same task, of the same length.
        are_distinct: No two requests of a run have the same prompt.
    """

    name: str
    of: Callable[[int, int], Prompt]
    are_distinct: bool


@dataclass(frozen=True, kw_only=True)
class Tokens:
    """A tokenizer, as the served model has it: text to ids, ids to text."""

    encode: Callable[[str], list[int]]
    decode: Callable[[Sequence[int]], str]
    vocabulary: int


def task_prompts(
    task: Task, *, template: FimTemplate | None, output_tokens: int | None, seed: int
) -> Prompts:
    """Return the prompts of a built-in task; ``fim`` needs the model's template."""
    items = [json.loads(line) for line in _lines(data_path(f"bench/{task}.jsonl"))]
    length = output_tokens or TASK_OUTPUT_TOKENS[task]

    def of(load: int, number: int) -> Prompt:
        item = items[number % len(items)]
        first_line = f"{item.get('comment', '#')} case {seed}-{load}-{number}\n"
        if "suffix" not in item or template is None:
            return Prompt(text=first_line + item["prompt"], output_tokens=length)
        prefix = first_line + item["prompt"]
        text = assemble_fim_prompt(template, prefix=prefix, suffix=item["suffix"])
        return Prompt(text=text, output_tokens=length)

    return Prompts(name=f"built-in task {task}", of=of, are_distinct=True)


def file_prompts(path: Path, *, template: FimTemplate | None, output_tokens: int | None) -> Prompts:
    """Return the prompts of a file.

    Raises:
        ConfigError: It cannot be read, holds no prompt, or one that is not as it should be.
    """
    items = [
        _file_prompt(path, number, line, template, output_tokens)
        for number, line in enumerate(_read(path), start=1)
        if line.strip()
    ]
    if not items:
        what = f"{path} holds no prompt"
        raise ConfigError(what, why="it has no line that is not blank")
    return Prompts(
        name=f"{len(items)} of {path.name}",
        of=lambda _load, number: items[number % len(items)],
        are_distinct=False,
    )


def synthetic_prompts(
    tokens: Tokens, *, prompt_tokens: int, output_tokens: int | None, seed: int
) -> Prompts:
    """Return prompts of ``prompt_tokens`` tokens each: words drawn from the vocabulary."""
    words = _words(tokens)
    length = output_tokens or DEFAULT_OUTPUT_TOKENS

    def of(load: int, number: int) -> Prompt:
        drawn = random.Random(f"{seed}-{load}-{number}")
        ids = [drawn.choice(words) for _ in range(prompt_tokens)]
        return Prompt(text=_text_of_length(tokens, ids, words, drawn), output_tokens=length)

    return Prompts(name=f"synthetic, {prompt_tokens} tokens", of=of, are_distinct=True)


def load_tokens(tokenizer_dir: Path) -> Tokens:
    """Return the tokenizer of a folder.

    Raises:
        ConfigError: There is none that can be read.
    """
    from tokenizers import Tokenizer

    path = tokenizer_dir / "tokenizer.json"
    if not path.is_file():
        what = f"there is no {path}"
        raise ConfigError(what, why="ids and lengths need the served model's tokenizer")
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises its own, unnamed kind
        what = f"{path} cannot be read as a tokenizer"
        raise ConfigError(what, why=str(error)) from error
    return Tokens(
        encode=lambda text: list(tokenizer.encode(text).ids),
        decode=lambda ids: str(tokenizer.decode(list(ids))),
        vocabulary=int(tokenizer.get_vocab_size()),
    )


def _words(tokens: Tokens) -> list[int]:
    """Return ids that stand for a plain word with a space before it, which stay one token."""
    found = []
    for token in range(tokens.vocabulary):
        text = tokens.decode([token])
        if text.startswith(" ") and text[1:].isascii() and text[1:].isalpha():
            found.append(token)
    # A tokenizer that drops the space of a lone piece: take any word, and mend the length.
    return found or [
        token for token in range(tokens.vocabulary) if tokens.decode([token]).isalpha()
    ]


def _text_of_length(tokens: Tokens, ids: list[int], words: list[int], drawn: random.Random) -> str:
    """Return text of as many tokens as ``ids`` has, special tokens included; near it at worst."""
    wanted = len(ids)
    text = tokens.decode(ids)
    for _ in range(_MOST_TRIES):
        surplus = len(tokens.encode(text)) - wanted
        if surplus == 0:
            break
        if surplus > 0:
            ids = ids[: max(1, len(ids) - surplus)]
        else:
            ids = [*ids, *(drawn.choice(words) for _ in range(-surplus))]
        text = tokens.decode(ids)
    return text


def _file_prompt(
    path: Path, number: int, line: str, template: FimTemplate | None, output_tokens: int | None
) -> Prompt:
    item: Any = {"prompt": line}
    if path.suffix == ".jsonl":
        try:
            item = json.loads(line)
        except ValueError as error:
            what = f"{path}:{number} is not JSON"
            raise ConfigError(what, why=str(error)) from error
    if not isinstance(item, dict) or not isinstance(item.get("prompt"), str):
        what = f"{path}:{number} has no prompt"
        why = 'wanted an object as {"prompt": "def add(a, b):"}'
        raise ConfigError(what, why=why)
    length = item.get("output_tokens", DEFAULT_OUTPUT_TOKENS)
    if isinstance(length, bool) or not isinstance(length, int) or length < 1:
        what = f"{path}:{number} asks for {length!r} output tokens, wanted an integer from 1 on"
        raise ConfigError(what)
    text, suffix = item["prompt"], item.get("suffix")
    if suffix is not None:
        if template is None:
            what = f"{path}:{number} has a suffix, and the served model's FIM tokens are not known"
            why = "its tokenizer has none, or is not at hand"
            raise ConfigError(what, why=why)
        text = assemble_fim_prompt(template, prefix=text, suffix=str(suffix))
    return Prompt(text=text, output_tokens=output_tokens or length)


def _read(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise unreadable(path, error) from error


def _lines(path: Path) -> Iterable[str]:
    return filter(None, path.read_text(encoding="utf-8").splitlines())
