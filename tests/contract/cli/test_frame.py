"""The frame of the command line: help, version, usage mistakes, and what it imports."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from trtllm_forge import __version__
from trtllm_forge.cli.app import app
from trtllm_forge.cli.lazy import load_command

ROOT = Path(__file__).resolve().parents[3]
COMMANDS = [
    "init",
    "build",
    "plan",
    "render",
    "verify",
    "check",
    "serve",
    "probe",
    "bench",
    "complete",
    "package",
    "unpack",
    "doctor",
    "versions",
    "sbom",
    "cache ls",
    "cache du",
    "cache prune",
    "migrate",
    "config show",
    "ci github",
    "ci gitlab",
    "ci summary",
]
HEAVY = {
    "annotated_types",
    "google",
    "httpx",
    "huggingface_hub",
    "jinja2",
    "numpy",
    "openvino_genai",
    "pydantic",
    "rich",
    "tokenizers",
    "torch",
    "transformers",
    "tritonclient",
    "yaml",
}


def run(line: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, shlex.split(line), prog_name="forge")
    return result.exit_code, result.stdout, result.stderr


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys\n"
        "from trtllm_forge.cli.app import app\n"
        "try: app(['--help'], prog_name='forge')\n"
        "except SystemExit: pass\n"
        "print('modules:', *{name.partition('.')[0] for name in sys.modules})\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    help_text, _, modules = done.stdout.rpartition("modules:")

    assert "  build " in help_text
    assert HEAVY & set(modules.split()) == set()


def test_version_is_the_packages() -> None:
    assert run("--version") == (0, f"forge {__version__}\n", "")


def test_version_that_cannot_be_written_is_no_traceback() -> None:
    done = subprocess.run(
        ["sh", "-c", f"{sys.executable} -m trtllm_forge --version >/dev/full"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 1
    assert done.stderr == "error: cannot write the result: No space left on device\n"


def test_without_a_command_the_help_lists_all_of_them() -> None:
    _, stdout, stderr = run("")

    for command in COMMANDS:
        assert f"\n  {command.split()[0]} " in stdout + stderr


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_a_command_has_one_sentence_groups_and_two_examples(command: str) -> None:
    code, stdout, stderr = run(f"{command} --help")

    assert (code, stderr) == (0, "")
    sentence = stdout.split("\n\n")[1].strip()
    assert sentence.endswith(".")
    assert sentence.count(".") == 1 + sentence.count(".yaml")
    assert "\nReporting:\n" in stdout
    examples = [line for line in stdout.split("\nExamples:\n")[1].splitlines() if line.strip()]
    assert len(examples) == 2
    assert all(example.startswith(f"  forge {command}") for example in examples)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_a_command_says_what_every_argument_and_option_is(command: str) -> None:
    loaded: Any = typer.main.get_command(app)
    for word in command.split():
        loaded = loaded.commands[word]

    params = load_command(loaded).params

    assert [param.name for param in params if not param.help] == []


def test_unknown_command_is_told_with_the_nearest() -> None:
    assert run("bild") == (
        2,
        "",
        "error: forge has no command bild\n  why:  the nearest is build\n  try:  forge build\n",
    )


def test_unknown_subcommand_is_told_with_the_nearest() -> None:
    code, _, stderr = run("config shwo")

    assert code == 2
    assert stderr.startswith("error: forge config has no command shwo\n")


def test_unknown_option_is_told_with_the_nearest() -> None:
    assert run("build sample --max-batchsize 4") == (
        2,
        "",
        "error: forge build has no option --max-batchsize\n"
        "  why:  the nearest is --max-batch-size\n"
        "  try:  forge build --help\n",
    )


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ("render sample", "forge render needs --output DIR"),
        ("complete", "forge complete needs PROMPT"),
        ("build a b", "got unexpected extra argument (b)"),
        (
            "unload coder --timeout x",
            "invalid value for '--timeout': 'x' is not a valid float range",
        ),
    ],
)
def test_other_usage_mistakes_are_told_in_house_style(line: str, what: str) -> None:
    code, stdout, stderr = run(line)

    assert (code, stdout) == (2, "")
    assert stderr == f"error: {what}\n  try:  forge {line.split()[0]} --help\n"


@pytest.mark.parametrize("line", ["bild --json", "render sample --json", "build --foo --json"])
def test_usage_mistake_in_json_mode_is_one_document_on_stdout(line: str) -> None:
    code, stdout, stderr = run(line)

    assert (code, stderr) == (2, "")
    document = json.loads(stdout)
    assert document["schema"] == 1
    assert document["error"]["exit_code"] == 2
    assert set(document["error"]) == {"what", "why", "hint", "log_path", "exit_code"}


def test_module_runs_as_the_command_does() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "trtllm_forge", "--version"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )

    assert done.stdout == f"forge {__version__}\n"


def test_generated_pages_are_what_the_code_says() -> None:
    done = subprocess.run(
        [sys.executable, "scripts/generate_docs.py", "--check"],
        cwd=ROOT,
        env={"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )

    assert (done.returncode, done.stderr) == (0, "")
