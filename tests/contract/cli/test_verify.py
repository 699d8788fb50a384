"""``forge verify``, ``forge build --locked`` and what ``forge serve`` refuses before it starts."""

from __future__ import annotations

import json
import shlex
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tests.manifest_values import values_that_differ
from tests.small_stage import SmallStage
from trtllm_forge.cli.app import app
from trtllm_forge.delivery.manifest import read_manifest
from trtllm_forge.runtimes.openvino import OpenVinoRuntime

CONFIG = "ensemble/config.pbtxt"


def run(line: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, shlex.split(line), prog_name="forge")
    return result.exit_code, result.stdout, result.stderr


@pytest.fixture
def repository_dir() -> Path:
    """Return a repository without an engine, as ``forge render`` publishes it."""
    code, _, stderr = run("render sample --runtime openvino --output model_repos/coder")
    assert code == 0, stderr
    return Path("model_repos/coder").resolve()


def files_in(manifest_dir: Path) -> list[str]:
    manifest = read_manifest(manifest_dir)
    assert manifest is not None
    return [file.path for file in manifest.files]


def test_rendered_repository_is_verified(repository_dir: Path) -> None:
    count = len(files_in(repository_dir))
    size = sum((repository_dir / name).stat().st_size for name in files_in(repository_dir))

    assert run("verify coder") == (
        0,
        f"verified: {repository_dir}, {count} files, {size} bytes\n",
        "next: forge serve coder\n",
    )


def test_manifest_lists_every_file_but_itself_and_the_lock(repository_dir: Path) -> None:
    there = {
        path.relative_to(repository_dir).as_posix()
        for path in repository_dir.rglob("*")
        if path.is_file()
    }

    assert set(files_in(repository_dir)) == there - {"forge.lock", "forge.manifest.json"}


def test_manifest_says_what_the_repository_is_made_of(repository_dir: Path) -> None:
    document = json.loads((repository_dir / "forge.manifest.json").read_text(encoding="utf-8"))

    assert document["checkpoint"]["repo_id"] == "sample"
    assert document["checkpoint"]["origin"] == "sample"
    assert {file["path"] for file in document["checkpoint"]["files"]} >= {"config.json"}
    assert document["recipe"]["runtime"] == "openvino"
    assert set(document["versions"]) >= {"trtllm-forge", "python"}
    assert (document["gpu_architecture"], document["image"]) == (None, None)
    assert [check["stage"] for check in document["checks"]] == ["download", "render", "check"]
    assert document["varying"] == ["versions/python"]


def test_manifest_names_no_place_of_this_machine(
    isolated_home: Path, tmp_path: Path, repository_dir: Path
) -> None:
    text = (repository_dir / "forge.manifest.json").read_text(encoding="utf-8")

    assert [p for p in (str(isolated_home), str(tmp_path), str(repository_dir)) if p in text] == []


def test_two_machines_render_the_same_bytes(
    repository_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORGE_CACHE_DIR", str(tmp_path / "another" / "cache"))
    monkeypatch.setenv("HOME", str(tmp_path / "another"))
    monkeypatch.setattr("platform.python_version", lambda: "3.12.99")

    run("render sample --runtime openvino --output model_repos/other")

    other_dir = repository_dir.with_name("other")
    one, other = read_manifest(repository_dir), read_manifest(other_dir)
    assert one is not None
    assert other is not None
    assert values_that_differ(one, other) == ()
    assert other.versions["python"] == "3.12.99"
    for name in (*files_in(repository_dir), "forge.lock"):
        assert (repository_dir / name).read_bytes() == (other_dir / name).read_bytes(), name


def test_differences_are_listed_and_end_in_exit_code_4(repository_dir: Path) -> None:
    (repository_dir / CONFIG).write_text("mine")
    (repository_dir / "notes.txt").write_text("mine")
    (repository_dir / "tensorrt_llm/1/model.py").unlink()

    assert run("verify coder") == (
        4,
        "",
        f"error: {repository_dir} is not what was built: 1 changed, 1 missing, 1 added\n"
        f"  why:  changed  {CONFIG}\n"
        "        missing  tensorrt_llm/1/model.py\n"
        "        added    notes.txt\n",
    )


def test_json_lists_the_differences_in_one_document(repository_dir: Path) -> None:
    (repository_dir / CONFIG).write_text("mine")

    code, stdout, stderr = run("verify coder --json")

    assert (code, stderr) == (4, "")
    document = json.loads(stdout)
    sizes = (document.pop("files"), document.pop("size_bytes"))
    assert all(size > 0 for size in sizes)
    assert document == {
        "schema": 1,
        "repository": str(repository_dir),
        "ok": False,
        "changed": [CONFIG],
        "missing": [],
        "added": [],
    }


def test_copied_repository_is_verified(repository_dir: Path) -> None:
    shutil.copytree(repository_dir, "copy", copy_function=shutil.copyfile)

    assert run("verify ./copy")[0] == 0


def test_repository_without_a_manifest_cannot_be_verified(repository_dir: Path) -> None:
    (repository_dir / "forge.manifest.json").unlink()

    assert run("verify coder") == (
        4,
        "",
        f"error: {repository_dir} has no forge.manifest.json\n"
        "  why:  it was made by hand, or by a forge that wrote no manifests\n",
    )


def test_misspelt_name_is_told_with_the_nearest(repository_dir: Path) -> None:
    assert run("verify codr") == (
        2,
        "",
        "error: no model repository codr\n"
        "  why:  there is no such folder, and model_repos holds coder\n"
        "  try:  forge verify coder\n",
    )


def test_server_is_not_started_on_an_edited_repository(repository_dir: Path) -> None:
    (repository_dir / CONFIG).write_text("mine")

    assert run("serve coder") == (
        4,
        "",
        f"error: {repository_dir} does not match its forge.manifest.json\n"
        f"  why:  {CONFIG} was changed\n"
        "  try:  forge serve coder --no-verify\n",
    )


def test_server_takes_one_word_on_verifying() -> None:
    assert run("serve coder --verify full --no-verify") == (
        2,
        "",
        "error: --verify full and --no-verify conflict\n  try:  forge serve --no-verify\n",
    )


def test_unknown_depth_is_refused_with_the_known_ones(repository_dir: Path) -> None:
    code, _, stderr = run("serve coder --verify all")

    assert code == 2
    assert "times, full" in stderr


@pytest.fixture
def small_engine(monkeypatch: pytest.MonkeyPatch) -> SmallStage:
    """Put a small stage where the twin's export stands, on a machine that has what it needs."""
    stage = SmallStage(files={"engine.json": b"{}", "tokenizer.json": b"{}"})
    monkeypatch.setattr(OpenVinoRuntime, "require_machine", lambda *_, **__: None)
    monkeypatch.setattr(OpenVinoRuntime, "stages", lambda *_: [stage])
    # The small stage's engine is no engine, which is not what is tried here.
    monkeypatch.setenv("FORGE_IGNORE", "FL")
    return stage


BUILD = "build sample --runtime openvino"


def test_locked_build_of_the_same_is_done_again(small_engine: SmallStage) -> None:
    assert run(BUILD)[0] == 0
    shutil.copyfile("model_repos/sample/forge.lock", "forge.lock")
    shutil.rmtree("model_repos")

    code, stdout, stderr = run(f"{BUILD} --locked")

    assert (code, stdout) == (0, "built: model_repos/sample\n"), stderr
    assert Path("model_repos/sample/forge.lock").read_bytes() == Path("forge.lock").read_bytes()


def test_locked_build_of_something_else_names_what_and_makes_nothing(
    small_engine: SmallStage,
) -> None:
    assert run(BUILD)[0] == 0
    shutil.move("model_repos/sample/forge.lock", "kept.lock")
    shutil.rmtree("model_repos")

    code, stdout, stderr = run(f"{BUILD} --max-queue-size 7 --lock kept.lock")

    assert (code, stdout) == (2, "")
    assert stderr.endswith(
        "error: this build would differ from kept.lock\n"
        "  why:  render: repository.max_queue_size: 0 -> 7\n"
    )
    assert not Path("model_repos").exists()


def test_locked_build_that_gives_other_bytes_is_not_published(
    small_engine: SmallStage, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert run(BUILD)[0] == 0
    before = Path("model_repos/sample/forge.lock").read_bytes()
    monkeypatch.setenv("FORGE_CACHE_DIR", str(tmp_path / "another"))
    small_engine.files["engine.json"] = b"{ }"

    code, _, stderr = run(f"{BUILD} --locked")

    assert code == 5
    assert stderr.endswith(
        "error: 2 built files do not match model_repos/sample/forge.lock\n"
        "  why:  compile: engine.json\n"
        "        render: tensorrt_llm/1/engine/engine.json\n"
    )
    assert Path("model_repos/sample/forge.lock").read_bytes() == before
    assert run("verify sample")[0] == 0


def test_locked_build_without_a_lock_is_refused() -> None:
    code, _, stderr = run("build sample --runtime openvino --locked --dry-run")

    assert code == 2
    assert stderr.endswith(
        "error: --locked needs a forge.lock, but there is no forge.lock and no "
        "model_repos/sample/forge.lock\n"
        "  why:  a build writes one into the repository; keep a copy beside forge.yaml\n"
    )
