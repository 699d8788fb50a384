"""The training script, in its smoke mode: a tiny model on one core."""

from __future__ import annotations

import hashlib
import importlib
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [
    pytest.mark.openvino,
    # transformers 5.5 calls it while it is imported; can go with the release that no longer does.
    pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning"),
]

SCRIPT_PATH = Path(__file__).parents[2] / "scripts" / "train_sample.py"
CHECKPOINT_FILES = [
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
]


@dataclass(frozen=True, kw_only=True)
class SmokeRun:
    """A finished smoke run of the script, as a person starts it."""

    output_dir: Path
    stdout: str
    stderr: str


@pytest.fixture(scope="module")
def smoke_run(tmp_path_factory: pytest.TempPathFactory) -> SmokeRun:
    output_dir = tmp_path_factory.mktemp("smoke") / "made"
    argv = [sys.executable, str(SCRIPT_PATH), "--output", str(output_dir), "--smoke"]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return SmokeRun(output_dir=output_dir, stdout=done.stdout, stderr=done.stderr)


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Give the script as a module, and torch its global state back afterwards."""
    import torch

    threads = torch.get_num_threads()
    monkeypatch.syspath_prepend(str(SCRIPT_PATH.parent))
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "false")
    with torch.random.fork_rng(devices=[]):
        yield importlib.import_module("train_sample")
    torch.set_num_threads(threads)


def run_script(script: Any, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    """Call the script's ``main`` and return the exit code it ends with."""
    monkeypatch.setattr(sys, "argv", ["train_sample.py", *arguments])
    try:
        script.main()
    except SystemExit as end:
        return int(str(end.code))
    return 0


def held_out_losses(text: str) -> list[float]:
    return [float(number) for number in re.findall(r"held-out loss (\d+\.\d+)", text)]


def sha256_by_name(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


def test_held_out_loss_falls_and_the_published_weights_have_the_lowest(smoke_run: SmokeRun) -> None:
    reported = held_out_losses(smoke_run.stderr)
    published = held_out_losses(smoke_run.stdout)

    assert len(reported) == 3
    assert reported[-1] < reported[0] - 0.5
    assert published == pytest.approx([min(reported)], abs=0.002)


def test_only_the_checkpoint_is_left_behind(smoke_run: SmokeRun) -> None:
    assert [path.name for path in smoke_run.output_dir.parent.iterdir()] == ["made"]
    assert sorted(path.name for path in smoke_run.output_dir.iterdir()) == CHECKPOINT_FILES


def test_checkpoint_loads_in_transformers_as_fp16_starcoder(smoke_run: SmokeRun) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(smoke_run.output_dir)
    tokenizer = AutoTokenizer.from_pretrained(smoke_run.output_dir)
    code = "def f(x):\n    return [x, 'ä']\n"

    assert model.config.architectures == ["GPTBigCodeForCausalLM"]
    assert {weight.dtype for weight in model.parameters()} == {torch.float16}
    assert tokenizer.convert_ids_to_tokens(list(range(5))) == [
        "<|endoftext|>",
        "<fim_prefix>",
        "<fim_middle>",
        "<fim_suffix>",
        "<fim_pad>",
    ]
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id) == (0, 0)
    assert tokenizer.decode(tokenizer(code).input_ids) == code


def test_interrupted_and_resumed_run_gives_the_bytes_of_an_uninterrupted_one(
    smoke_run: SmokeRun,
    script: Any,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    output_dir = tmp_path / "made"
    arguments = ("--output", str(output_dir), "--smoke")
    save_state = script.save_state

    def save_and_stop(*values: Any) -> None:
        save_state(*values)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(script, "save_state", save_and_stop)
        with pytest.raises(KeyboardInterrupt):
            run_script(script, monkeypatch, *arguments)
    assert not output_dir.exists()

    assert run_script(script, monkeypatch, *arguments) == 2
    state_path = tmp_path / ".made.training" / "state.pt"
    assert capsys.readouterr().err.endswith(
        f"error: a stopped run of {output_dir} is there\n"
        f"  why:  {state_path}\n"
        f"  try:  python train_sample.py --output {output_dir} --smoke --resume\n"
    )

    assert run_script(script, monkeypatch, *arguments, "--resume", "--seed", "1") == 2
    assert capsys.readouterr().err.endswith(
        "error: the stopped run has seed 0, this one 1\n"
        f"  why:  {state_path}\n"
        f"  try:  rm -r {state_path.parent}\n"
    )

    assert run_script(script, monkeypatch, *arguments, "--resume") == 0
    assert "resuming after step 15\n" in capsys.readouterr().err
    assert sha256_by_name(output_dir) == sha256_by_name(smoke_run.output_dir)
    assert [path.name for path in tmp_path.iterdir()] == ["made"]


def test_fim_window_holds_the_same_tokens_in_psm_order(script: Any) -> None:
    import random

    import torch

    window = torch.arange(100, 140)
    tokens = script.rearrange_for_fim(window, random.Random(3)).tolist()
    prefix_mark, suffix_mark, middle_mark = (tokens.index(mark) for mark in (1, 3, 2))
    prefix = tokens[prefix_mark + 1 : suffix_mark]
    suffix = tokens[suffix_mark + 1 : middle_mark]
    middle = tokens[middle_mark + 1 : -1]

    assert len(tokens) == len(window) + script.FIM_MARKS
    assert (tokens[0], tokens[-1]) == (1, 0)
    assert prefix + middle + suffix == window.tolist()
    assert all((prefix, middle, suffix))


def test_existing_output_is_not_overwritten(
    script: Any,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    output_dir = tmp_path / "made"
    output_dir.mkdir()
    (tmp_path / "made-2").mkdir()

    assert run_script(script, monkeypatch, "--output", str(output_dir), "--smoke") == 2
    assert capsys.readouterr().err == (
        f"error: {output_dir} exists and is not overwritten\n"
        f"  try:  mv {output_dir} {tmp_path / 'made-3'}\n"
    )
    assert list(output_dir.iterdir()) == []


def test_resume_without_a_stopped_run_is_refused(
    script: Any,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    output_dir = tmp_path / "made"

    assert run_script(script, monkeypatch, "--output", str(output_dir), "--resume") == 2
    assert capsys.readouterr().err == (
        f"error: there is no stopped run of {output_dir} to resume\n"
        f"  why:  no {tmp_path / '.made.training' / 'state.pt'}\n"
    )


def test_evaluating_a_folder_without_a_checkpoint_names_the_missing_file(
    script: Any,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run_script(script, monkeypatch, "--evaluate", str(tmp_path)) == 4
    assert capsys.readouterr().err == (
        f"error: {tmp_path} is no checkpoint of this script: it has no config.json\n"
    )
