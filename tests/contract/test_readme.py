"""What README and docs say: their commands run, their links lead somewhere, their tables hold."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from typer.testing import CliRunner

from tests.archive_builder import write_sample_repository
from tests.check_fixtures import engine_repository
from tests.documentation import (
    ROOT,
    ShownCommand,
    anchors,
    links,
    marked_table,
    normalized,
    pages,
    presets_table,
    releases_table,
    shown_commands,
)
from tests.upstream_repository import write_upstream
from trtllm_forge import __version__, errors
from trtllm_forge.cli.app import app
from trtllm_forge.delivery.package import plan_package, write_package
from trtllm_forge.files.resources import sample_checkpoint_dir
from trtllm_forge.machine.gpu import GpuReport
from trtllm_forge.reporter import SilentReporter
from trtllm_forge.runtimes.openvino import OpenVinoRuntime

if TYPE_CHECKING:
    from collections.abc import Callable

_LOADS = "it loads a server for minutes; tests/triton/test_bench.py runs smaller ones"
_RANKS = "an engine of two ranks needs two GPUs; tests/triton/test_ranks.py runs the twin's"
_MODELS = "a model beside the sample is needed; tests/triton/test_models.py runs the same"
_DOCKER = "docker and an image are needed; tests/triton/test_serve_docker.py has a stand-in"
_TLS = "certificates are needed; tests/triton/test_endpoints.py makes some"
_IMAGE = "nvcr.io/nvidia/tritonserver:25.03-trtllm-python-py3"
_PAIR = "--grpc-tls-cert triton.crt --grpc-tls-key triton.key"
NOT_RUN = {
    "forge load chat --server coder": _MODELS,
    "forge load chat=served/llama --server coder": _MODELS,
    "forge unload chat": _MODELS,
    "forge unload chat --server coder --timeout 60": _MODELS,
    "forge reload sample": _MODELS,
    "forge reload coder --server coder --json": _MODELS,
    "forge bench --concurrency 1,4,16 --goodput ttft=200,itl=50 --html bench.html": _LOADS,
    "forge bench --json > bench.json": _LOADS,
    "forge bench --json > before.json": _LOADS,
    "forge bench --compare before.json --noise 0.1": _LOADS,
    "forge serve codellama              # an engine with tp_size 2": _RANKS,
    "forge serve codellama --world-size 4": _RANKS,
    "forge serve codellama --dry-run --json     # argv and environment of each rank": _RANKS,
    "forge serve coder --triton docker": _DOCKER,
    f"forge serve coder --triton docker:{_IMAGE}": _DOCKER,
    "forge serve coder --triton docker --dry-run --json     "
    "# the docker command, and what each rank runs inside": _DOCKER,
    f"forge serve coder {_PAIR}                      # encrypted": _TLS,
    f"forge serve coder {_PAIR} --grpc-tls-ca ca.crt # and clients need a certificate": _TLS,
    "forge build ./sample-new --int4": "its checkpoint takes an hour to train",
}


def commands_run_here() -> list[ShownCommand]:
    return [c for c in shown_commands() if not c.needs_triton and c.line not in NOT_RUN]


def make_mistakes() -> None:
    Path("forge.yaml").write_text("build:\n  max_batch_sise: 8\n  tp_size: 0\n")


def make_notes() -> None:
    Path("notes").mkdir()
    Path("notes", "today.txt").write_text("buy milk\n")


def make_cut_checkpoint() -> None:
    shutil.copytree(sample_checkpoint_dir(), "cut")
    with Path("cut", "model.safetensors").open("r+b") as file:
        file.truncate(100_000)


def make_checkpoint_without_tokenizer() -> None:
    shutil.copytree(sample_checkpoint_dir(), "no-tokenizer")
    for path in Path("no-tokenizer").glob("tokenizer*"):
        path.unlink()


def make_odd_checkpoint() -> None:
    shutil.copytree(sample_checkpoint_dir(), "odd")
    path = Path("odd", "config.json")
    document = json.loads(path.read_text())
    path.write_text(json.dumps({**document, "architectures": ["FooForCausalLM"]}))


SETTINGS: dict[tuple[str, str], Callable[[], None]] = {
    ("docs/troubleshooting.md", "forge build sample --dry-run"): make_mistakes,
    ("docs/troubleshooting.md", "forge build sample --output notes"): make_notes,
    ("docs/troubleshooting.md", "forge build ./cut"): make_cut_checkpoint,
    ("docs/troubleshooting.md", "forge build ./no-tokenizer"): make_checkpoint_without_tokenizer,
    ("docs/troubleshooting.md", "forge build ./empty"): Path("empty").mkdir,
    ("docs/troubleshooting.md", "forge build ./odd"): make_odd_checkpoint,
}


def make_package() -> None:
    plan = plan_package(write_sample_repository())
    write_package(plan, Path("sample.tar.zst"), SilentReporter())


def make_checked_repository() -> None:
    Path("model_repos").mkdir(exist_ok=True)
    engine_repository(Path("rendered")).rename("model_repos/sample")


def render_repository() -> None:
    line = "render sample --runtime trtllm --output model_repos/sample"
    assert CliRunner().invoke(app, line.split(), prog_name="forge").exit_code == 0


# What a command is shown to work on, whichever page shows it.
WORKED_ON: dict[str, Callable[[], object]] = {
    "check": make_checked_repository,
    "verify": render_repository,
    "package": write_sample_repository,
    "unpack": make_package,
    "sbom": write_sample_repository,
    "migrate": lambda: write_upstream(Path("model_repos/llama")),
}


@pytest.mark.parametrize("command", commands_run_here(), ids=str)
def test_command_prints_what_the_page_shows(
    command: ShownCommand, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Nothing here gets as far as the export, which alone needs the extra.
    monkeypatch.setattr(OpenVinoRuntime, "require_machine", lambda *_, **__: None)
    monkeypatch.setattr("trtllm_forge.machine.survey.probe_gpus", lambda: GpuReport(gpus=()))
    SETTINGS.get((command.page, command.line), lambda: None)()
    WORKED_ON.get(command.line.split()[1], lambda: None)()

    result = CliRunner().invoke(app, shlex.split(command.line)[1:], prog_name="forge")

    assert result.exit_code == command.exit_code, result.output
    if command.output:
        home = str(Path.cwd())
        assert normalized(result.output, home) == normalized(command.output, home)


def test_commands_left_out_are_shown_somewhere() -> None:
    assert set(NOT_RUN) <= {command.line for command in shown_commands()}
    assert set(SETTINGS) <= {(command.page, command.line) for command in shown_commands()}


def test_transcript_of_readme_goes_from_build_to_fill_in_the_middle() -> None:
    verbs = [c.line.split()[1] for c in shown_commands() if c.page == "README.md"]

    assert verbs[:5] == ["build", "serve", "probe", "complete", "complete"]


@pytest.mark.parametrize("page", pages())
def test_links_lead_to_a_file_and_a_heading_that_exist(page: str) -> None:
    texts = pages()
    for target in links(texts[page]):
        name, _, anchor = target.partition("#")
        path = (ROOT / page).parent.joinpath(name).resolve() if name else ROOT / page
        assert path.exists(), target
        if anchor:
            assert anchor in anchors(path.read_text("utf-8")), target


@pytest.mark.parametrize("page", pages())
def test_no_page_names_a_folder_of_one_machine(page: str) -> None:
    found = re.findall(r"(?<![\w.~])/(?:home|root|tmp|work|Users)\b\S*", pages()[page])

    assert found == []


def test_every_page_is_in_the_index() -> None:
    linked = {target.partition("#")[0] for target in links(pages()["docs/index.md"])}

    pages_of_docs = {name.removeprefix("docs/") for name in pages() if name.startswith("docs/")}
    assert pages_of_docs - {"index.md"} <= linked


def test_table_of_presets_is_that_of_the_data() -> None:
    assert marked_table("presets") == presets_table()


def test_table_of_releases_is_that_of_the_contracts_and_pins() -> None:
    assert marked_table("releases") == releases_table()


def test_every_error_class_has_its_section_and_exit_code() -> None:
    classes: list[type[errors.ForgeError]] = [
        errors.ForgeError,
        *(
            each
            for each in errors.ForgeError.__subclasses__()
            if each.__module__ == errors.__name__
        ),
    ]
    rows = re.findall(
        r"^\| (\d) \| `(\w+)` \| \[.+\]\(#(\d)-", pages()["docs/troubleshooting.md"], re.M
    )

    assert sorted(rows) == sorted(
        (str(kind.exit_code), kind.__name__, str(kind.exit_code)) for kind in classes
    )


def test_the_command_line_has_the_exit_codes() -> None:
    rows = re.findall(r"^\| (\d+) \| ", pages()["docs/command-line.md"], re.M)

    codes = {kind.exit_code for kind in errors.ForgeError.__subclasses__()}
    assert [int(row) for row in rows] == sorted({0, 1, *codes, errors.INTERRUPTED_EXIT_CODE})


def test_changelog_is_about_this_version() -> None:
    assert f"Will be {__version__}." in pages()["CHANGELOG.md"] or (
        f"## [{__version__}]" in pages()["CHANGELOG.md"]
    )
