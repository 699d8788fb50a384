"""``forge package`` and ``forge unpack`` as they are typed."""

from __future__ import annotations

import hashlib
import json
import shlex
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from scripts.render_examples import EXAMPLES_DIR
from tests.checkpoint_builder import write_files
from tests.rendering import tree
from trtllm_forge.cli.app import app

FILES = {"m/config.pbtxt": b'name: "m"\n', "m/1/model.py": b"pass\n", "forge.lock": b"{}"}


def run(line: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, shlex.split(line)[1:], prog_name="forge")
    return result.exit_code, result.stdout, result.stderr


@pytest.fixture(autouse=True)
def repository() -> Path:
    return write_files(Path("model_repos/sample"), FILES)


def test_examples_of_both_commands_run() -> None:
    group = typer.main.get_command(app)
    for name in ("package", "unpack"):
        for example in group.commands[name].epilog.splitlines():  # type: ignore[attr-defined]
            code, stdout, stderr = run(example)
            assert (code, bool(stdout)) == (0, True), stderr
    assert tree(Path("served/sample")) == FILES


def test_package_says_what_it_made_and_what_comes_next() -> None:
    code, stdout, stderr = run("forge package model_repos/sample")

    assert (code, stdout) == (0, "packaged: sample.tar.zst\n")
    sha256 = hashlib.sha256(Path("sample.tar.zst").read_bytes()).hexdigest()
    assert stderr == f"sha256 {sha256}\nnext: forge unpack sample.tar.zst\n"


@pytest.mark.parametrize("command", ["package --dry-run", "sbom", "check", "migrate --to 1.2"])
def test_name_below_model_repos_is_taken_and_a_near_one_proposed(command: str) -> None:
    _, _, by_name = run(f"forge {command} sample")
    _, _, by_path = run(f"forge {command} model_repos/sample")
    assert by_name.replace("model_repos/", "") == by_path.replace("model_repos/", "")
    assert run(f"forge {command} smaple") == (
        2,
        "",
        "error: smaple is not a folder\n"
        "  why:  model_repos holds sample\n"
        f"  try:  forge {command.split()[0]} sample\n",
    )


def test_file_that_is_no_package_is_called_none_wherever_it_would_go() -> None:
    Path("forge.yaml").write_text("model: sample\n", encoding="utf-8")
    assert run("forge unpack forge.yaml") == (
        4,
        "",
        "error: forge.yaml is not a forge package\n  why:  it does not start like a zstd file\n",
    )


def test_unpacked_repository_has_no_file_that_is_newer_than_its_records() -> None:
    run("forge package model_repos/sample")
    run("forge unpack sample.tar.zst --output out")
    times = {p.name: p.stat().st_mtime_ns for p in Path("out").rglob("*") if p.is_file()}
    assert times["forge.lock"] == max(times.values())


def test_working_folder_can_be_packaged_beside_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir("model_repos/sample")

    code, _, stderr = run("forge package .")
    assert (code, stderr) == (
        2,
        "error: the package sample.tar.zst would be inside the folder it packages, .\n"
        "  try:  --output ../sample.tar.zst\n",
    )
    assert run("forge package . --output ../sample.tar.zst")[0] == 0


def test_json_documents_have_their_keys(tmp_path: Path) -> None:
    _, stdout, _ = run("forge package model_repos/sample --level 1 --json")
    made = json.loads(stdout)
    assert {**made, "sha256": "", "size_bytes": 0, "content_sha256": ""} == {
        "schema": 1,
        "package": "sample.tar.zst",
        "size_bytes": 0,
        "sha256": "",
        "content_sha256": "",
        "content_bytes": 17,
        "files": 3,
    }
    assert made["size_bytes"] == Path("sample.tar.zst").stat().st_size
    _, stdout, _ = run("forge unpack sample.tar.zst --json")
    assert json.loads(stdout) == {
        "schema": 1,
        "package": "sample.tar.zst",
        "repository": "sample",
        "content_sha256": made["content_sha256"],
        "content_bytes": 17,
        "files": 3,
    }
    assert tree(Path("sample")) == FILES


def test_dry_run_writes_nothing() -> None:
    code, stdout, _ = run("forge package model_repos/sample --dry-run")
    assert (code, stdout) == (
        0,
        "             2 forge.lock\n"
        "             5 m/1/model.py\n"
        "            10 m/config.pbtxt\n"
        "            17 bytes to sample.tar.zst\n",
    )
    _, stdout, _ = run("forge package model_repos/sample --dry-run --json")
    assert json.loads(stdout) == {
        "schema": 1,
        "package": "sample.tar.zst",
        "content_bytes": 17,
        "files": [
            {"path": "forge.lock", "size_bytes": 2},
            {"path": "m/1/model.py", "size_bytes": 5},
            {"path": "m/config.pbtxt", "size_bytes": 10},
        ],
        "folders": [],
        "links": [],
    }
    assert [path.name for path in Path().iterdir()] == ["model_repos"]
    run("forge package model_repos/sample")
    code, stdout, stderr = run("forge unpack sample.tar.zst --dry-run")
    assert (code, stdout, stderr) == (
        0,
        "verified: sample.tar.zst, 3 files for sample\n",
        "",
    )
    assert not Path("sample").exists()


def test_damaged_package_ends_with_the_checkpoint_code() -> None:
    run("forge package model_repos/sample")
    path = Path("sample.tar.zst")
    path.write_bytes(path.read_bytes()[:-1])
    size_bytes = path.stat().st_size

    code, stdout, stderr = run("forge unpack sample.tar.zst")

    assert (code, stdout) == (4, "")
    assert stderr == (
        f"error: sample.tar.zst is incomplete: its end is missing after byte {size_bytes}\n"
        "  why:  a copy or a download was interrupted, or something was appended to the file\n"
    )


def test_level_out_of_range_is_a_usage_mistake() -> None:
    code, _, stderr = run("forge package model_repos/sample --level 20")
    assert code == 2
    assert stderr.startswith("error: invalid value for '--level': 20 is not in the range 1<=x<=19")


def test_missing_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "zstandard", None)
    code, _, stderr = run("forge package model_repos/sample")
    assert (code, stderr) == (
        3,
        "error: the Python package zstandard is missing\n"
        "  why:  it is needed to write and read packages\n"
        "  try:  pip install --force-reinstall trtllm-forge\n",
    )


def test_example_repositories_survive_the_round(tmp_path: Path) -> None:
    for folder in sorted(EXAMPLES_DIR.iterdir()):
        package_path = tmp_path / f"{folder.name}.tar.zst"
        assert run(f"forge package {folder} --output {package_path}")[0] == 0
        assert run(f"forge unpack {package_path} --output {tmp_path / folder.name}")[0] == 0
        cached = {name for name in tree(folder) if "__pycache__" in name}
        assert tree(tmp_path / folder.name) == {
            name: content for name, content in tree(folder).items() if name not in cached
        }
