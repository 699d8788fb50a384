"""Prompts: distinct where they should be, of the length asked for, and refused by line."""

from __future__ import annotations

import itertools
import json
from typing import TYPE_CHECKING

import pytest

from trtllm_forge.bench.prefix_reuse import prefix_text
from trtllm_forge.bench.prompts import (
    Prompt,
    file_prompts,
    load_tokens,
    synthetic_prompts,
    task_prompts,
)
from trtllm_forge.checkpoint.fim import FimTemplate
from trtllm_forge.checkpoint.presets import fim_template_from_tokenizer
from trtllm_forge.errors import ConfigError
from trtllm_forge.files.resources import sample_checkpoint_dir

if TYPE_CHECKING:
    from pathlib import Path

    from trtllm_forge.bench.prompts import Task

TEMPLATE = FimTemplate(prefix="<P>", suffix="<S>", middle="<M>")


@pytest.mark.parametrize("task", ["completion", "fim", "edit"])
def test_no_two_prompts_of_a_task_start_alike(task: Task) -> None:
    prompts = task_prompts(task, template=TEMPLATE, output_tokens=None, seed=1)

    pairs = itertools.product(range(3), range(40))
    first_lines = [prompts.of(load, number).text.splitlines()[0] for load, number in pairs]

    assert len(set(first_lines)) == len(first_lines)
    assert prompts.are_distinct


def test_the_same_request_of_two_loads_is_the_same_task() -> None:
    prompts = task_prompts("edit", template=None, output_tokens=9, seed=0)

    first, second = prompts.of(0, 5), prompts.of(1, 5)

    assert first.text.splitlines()[1:] == second.text.splitlines()[1:]
    assert first.output_tokens == second.output_tokens == 9


def test_a_fim_task_is_put_as_the_template_says() -> None:
    text = task_prompts("fim", template=TEMPLATE, output_tokens=None, seed=0).of(0, 0).text

    assert text.startswith("<P># case 0-0-0\ndef average(values):\n")
    assert text.endswith("<S>    return total / len(values)\n<M>")


@pytest.mark.parametrize("length", [1, 7, 200])
def test_synthetic_prompts_have_the_length_asked_for(length: int) -> None:
    tokens = load_tokens(sample_checkpoint_dir())
    prompts = synthetic_prompts(tokens, prompt_tokens=length, output_tokens=5, seed=3)

    texts = [prompts.of(0, number).text for number in range(20)]

    assert {len(tokens.encode(text)) for text in texts} == {length}
    assert prompts.of(0, 1) == Prompt(text=texts[1], output_tokens=5)


def test_synthetic_prompts_of_two_loads_differ() -> None:
    tokens = load_tokens(sample_checkpoint_dir())
    prompts = synthetic_prompts(tokens, prompt_tokens=30, output_tokens=None, seed=3)

    assert prompts.of(0, 1) != prompts.of(1, 1)


def test_prefixes_of_pairs_are_long_and_differ_from_their_first_line_on() -> None:
    first, second = prefix_text(0, 0), prefix_text(0, 1)

    assert len(first) == len(second) == 2000
    assert first.splitlines()[0] != second.splitlines()[0]


def test_a_file_gives_its_prompts_in_turns(tmp_path: Path) -> None:
    path = tmp_path / "prompts.jsonl"
    lines = [{"prompt": "a", "output_tokens": 3}, {"prompt": "b", "suffix": "c"}]
    path.write_text("\n".join(map(json.dumps, lines)) + "\n\n")

    prompts = file_prompts(path, template=TEMPLATE, output_tokens=None)

    assert [prompts.of(0, number) for number in range(3)] == [
        Prompt(text="a", output_tokens=3),
        Prompt(text="<P>b<S>c<M>", output_tokens=64),
        Prompt(text="a", output_tokens=3),
    ]
    assert not prompts.are_distinct


def test_a_text_file_has_a_prompt_per_line_and_the_option_wins(tmp_path: Path) -> None:
    path = tmp_path / "prompts.txt"
    path.write_text('def f():\n{"prompt": 1}\n')

    prompts = file_prompts(path, template=None, output_tokens=8)

    assert prompts.of(0, 1) == Prompt(text='{"prompt": 1}', output_tokens=8)


@pytest.mark.parametrize(
    ("line", "what", "why"),
    [
        ("{", "{path}:1 is not JSON", None),
        ("[]", "{path}:1 has no prompt", 'wanted an object as {"prompt": "def add(a, b):"}'),
        ('{"prompt": 4}', "{path}:1 has no prompt", None),
        (
            '{"prompt": "a", "output_tokens": true}',
            "{path}:1 asks for True output tokens, wanted an integer from 1 on",
            "",
        ),
        (
            '{"prompt": "a", "suffix": "b"}',
            "{path}:1 has a suffix, and the served model's FIM tokens are not known",
            "its tokenizer has none, or is not at hand",
        ),
        ("", "{path} holds no prompt", "it has no line that is not blank"),
    ],
    ids=["json", "list", "number", "length", "suffix", "blank"],
)
def test_a_line_that_is_no_prompt_is_refused(
    tmp_path: Path, line: str, what: str, why: str | None
) -> None:
    path = tmp_path / "prompts.jsonl"
    path.write_text(f"{line}\n")

    with pytest.raises(ConfigError) as caught:
        file_prompts(path, template=None, output_tokens=None)

    assert caught.value.what == what.format(path=path)
    assert why is None or caught.value.why == why


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot be read$"):
        file_prompts(tmp_path / "none.txt", template=None, output_tokens=None)


def test_the_sample_has_fim_tokens_for_the_task() -> None:
    template = fim_template_from_tokenizer(sample_checkpoint_dir())

    assert template is not None
    assert task_prompts("fim", template=template, output_tokens=None, seed=0).of(0, 0).text


def test_a_folder_without_a_tokenizer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load_tokens(tmp_path)

    assert caught.value.what == f"there is no {tmp_path}/tokenizer.json"
