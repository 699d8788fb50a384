from __future__ import annotations

import json
import os
from dataclasses import asdict, replace
from typing import TYPE_CHECKING

import pytest

from tests.manifest_values import values_that_differ
from tests.small_stage import RecordingReporter, printed
from trtllm_forge import __version__
from trtllm_forge.build.provenance import is_repeatable
from trtllm_forge.delivery.manifest import (
    ImageReference,
    Manifest,
    PassedCheck,
    SourceCheckpoint,
    read_manifest,
)
from trtllm_forge.delivery.verification import Depth, Verification, verify_files
from trtllm_forge.errors import CheckpointError, PrerequisiteError
from trtllm_forge.files.digest import sha256_file
from trtllm_forge.machine.gpu import Gpu
from trtllm_forge.pipeline.store import OutputFile
from trtllm_forge.serving.plan import trust
from trtllm_forge.serving.plan.trust import require_trusted
from trtllm_forge.triton.repository.names import MANIFEST_NAME

if TYPE_CHECKING:
    from pathlib import Path

LARGE = b"0123456789abcdef" * ((1 << 16) + 1)
FILES = {
    "ensemble/config.pbtxt": b"name",
    "ensemble/1/.keep": b"",
    "tensorrt_llm/1/engine/rank0.engine": LARGE,
}
ENGINE = "tensorrt_llm/1/engine/rank0.engine"
MANIFEST = Manifest(
    runtime="trtllm",
    checkpoint=SourceCheckpoint(
        repo_id="größer/coder",
        revision="ab" * 20,
        origin="hub",
        licence="apache-2.0",
        files=(OutputFile(path="config.json", size_bytes=2, sha256="cd" * 32),),
    ),
    recipe={"build": {"precision": "int4", "lora_dir": None}},
    versions={"python": "3.11.7", "tensorrt_llm": "1.2.1"},
    gpu_architecture="sm_90",
    image=ImageReference(reference="nvcr.io/nvidia/tritonserver:26.07", digest=None),
    stages={"download": "01" * 32, "compile": "02" * 32},
    checks=(PassedCheck(stage="render", passed="every config.pbtxt parses"),),
    files=(OutputFile(path="a/config.pbtxt", size_bytes=1, sha256="ef" * 32),),
    varying=("versions/python", "files/a/rank0.engine"),
)


@pytest.fixture
def repository_dir(tmp_path: Path) -> Path:
    """Return a repository whose manifest is right, written as publishing does: last."""
    folder = tmp_path / "coder"
    for name, content in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    describe(folder)
    return folder


def describe(folder: Path, **changes: object) -> Manifest:
    files = tuple(
        OutputFile(
            path=name,
            size_bytes=(folder / name).stat().st_size,
            sha256=sha256_file(folder / name),
        )
        for name in sorted(FILES)
    )
    manifest = replace(MANIFEST, files=files, **changes)  # type: ignore[arg-type]
    (folder / MANIFEST_NAME).write_text(manifest.to_text(), encoding="utf-8")
    return manifest


def verify(folder: Path, depth: Depth, reporter: RecordingReporter | None = None) -> Verification:
    manifest = read_manifest(folder)
    assert manifest is not None
    return verify_files(
        folder,
        manifest,
        depth=depth,
        cache_dir=folder.parent / "cache",
        reporter=reporter or RecordingReporter(),
    )


def differences(found: Verification) -> list[str]:
    return [" ".join(line.split()) for line in found.lines()]


def touch_later(path: Path) -> None:
    """Make a file newer than the manifest, whatever the clock's steps."""
    at = path.stat().st_mtime_ns + 10**10
    os.utime(path, ns=(at, at))


def test_manifest_is_written_with_sorted_keys_and_a_schema() -> None:
    document = json.loads(MANIFEST.to_text())

    assert list(document) == sorted(document)
    assert document["schema"] == 1
    assert document["checkpoint"]["repo_id"] == "größer/coder"
    assert document["files"] == [{"path": "a/config.pbtxt", "size_bytes": 1, "sha256": "ef" * 32}]
    assert "größer" in MANIFEST.to_text()


def test_manifest_reads_back_as_it_was_written(tmp_path: Path) -> None:
    (tmp_path / MANIFEST_NAME).write_text(MANIFEST.to_text(), encoding="utf-8")

    assert read_manifest(tmp_path) == MANIFEST


def test_repository_without_a_manifest_has_none(tmp_path: Path) -> None:
    assert read_manifest(tmp_path) is None


def refusal_to_read(folder: Path) -> tuple[str, int]:
    with pytest.raises(CheckpointError) as caught:
        read_manifest(folder)
    return printed(caught.value)


def test_newer_manifest_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / MANIFEST_NAME
    path.write_text('{"schema": 2}')

    assert refusal_to_read(tmp_path) == (
        f"error: {path} has schema 2, but this forge reads schema 1\n"
        f"  why:  forge {__version__} is older than the forge that wrote it\n"
        "  try:  pip install --upgrade trtllm-forge",
        4,
    )


@pytest.mark.parametrize("text", ["{}", "[]", '{"schema": null}'])
def test_manifest_without_a_schema_is_called_damaged_and_not_newer(
    tmp_path: Path, text: str
) -> None:
    path = tmp_path / MANIFEST_NAME
    path.write_text(text)
    assert refusal_to_read(tmp_path) == (
        f"error: {path} is damaged\n  why:  it has no schema number",
        4,
    )


def test_manifest_that_is_no_json_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / MANIFEST_NAME
    path.write_text("half a m")

    assert refusal_to_read(tmp_path) == (
        f"error: {path} cannot be read\n  why:  Expecting value: line 1 column 1 (char 0)",
        4,
    )


def test_manifest_that_is_nested_without_end_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / MANIFEST_NAME
    path.write_text("[" * 100_000)

    text, code = refusal_to_read(tmp_path)

    assert (text.splitlines()[0], code) == (f"error: {path} cannot be read", 4)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"files": None}, "TypeError: 'NoneType' object is not iterable"),
        (
            {"files": [{"path": "../../etc/passwd", "size_bytes": 1, "sha256": "ab"}]},
            "ValueError: '../../etc/passwd' points outside the repository",
        ),
        (
            {"files": [{"path": "/etc/passwd", "size_bytes": 1, "sha256": "ab"}]},
            "ValueError: '/etc/passwd' points outside the repository",
        ),
        (
            {"files": [{"path": "a", "size_bytes": "1", "sha256": "ab"}]},
            "TypeError: a has no size and digest",
        ),
        (
            {"files": [{"path": "a\0b", "size_bytes": 1, "sha256": "ab"}]},
            r"ValueError: 'a\x00b' points outside the repository",
        ),
        ({"versions": {"openvino": 5}}, "TypeError: versions.openvino is 5, not a string"),
        ({"recipe": []}, "TypeError: recipe is not a mapping"),
        ({"runtime": None}, "TypeError: runtime is None, not a string"),
        (
            {"checkpoint": {**asdict(MANIFEST.checkpoint), "licence": 5}},
            "TypeError: checkpoint.licence is 5, not a string",
        ),
        (
            {"runtime": "\ud800"},
            r"UnicodeEncodeError: 'utf-8' codec can't encode character '\ud800' in position 0: "
            "surrogates not allowed",
        ),
    ],
    ids=[
        "no-files",
        "out-of-it",
        "absolute",
        "size-is-text",
        "no-byte-of-a-path",
        "version-is-number",
        "recipe-is-list",
        "no-runtime",
        "licence-is-number",
        "half-a-surrogate-pair",
    ],
)
def test_damaged_manifest_is_refused_by_name(
    tmp_path: Path, change: dict[str, object], why: str
) -> None:
    path = tmp_path / MANIFEST_NAME
    path.write_text(json.dumps({**MANIFEST.document(), **change}, default=str))

    assert refusal_to_read(tmp_path) == (f"error: {path} is damaged\n  why:  {why}", 4)


def test_values_that_may_vary_do_not_count_as_different() -> None:
    engine = OutputFile(path="a/rank0.engine", size_bytes=1, sha256="01")
    one = replace(MANIFEST, files=(*MANIFEST.files, engine))
    other = replace(
        one,
        versions={**MANIFEST.versions, "python": "3.12.1"},
        files=(*MANIFEST.files, replace(engine, size_bytes=2, sha256="02")),
    )

    assert values_that_differ(one, other) == ()


def test_every_other_value_counts_as_different_by_its_place() -> None:
    config = replace(MANIFEST.files[0], sha256="00" * 32)
    other = replace(MANIFEST, gpu_architecture="sm_80", files=(config,))

    assert values_that_differ(MANIFEST, other) == (
        "files/a/config.pbtxt/sha256",
        "gpu_architecture",
    )


@pytest.mark.parametrize(
    ("stage", "parameters", "path", "expected"),
    [
        ("compile", {"runtime": "openvino"}, "openvino_model.bin", True),
        ("compile", {"runtime": "trtllm"}, "rank0.engine", False),
        ("compile", {"runtime": "trtllm"}, "config.json", True),
        ("render", {}, "tensorrt_llm/1/engine/rank12.engine", False),
        ("render", {}, "tensorrt_llm/1/engine.py", True),
        ("convert", {"tool": "convert_checkpoint"}, "rank0.safetensors", True),
        ("convert", {"tool": "quantize"}, "rank0.safetensors", False),
    ],
)
def test_only_engines_and_calibrated_weights_may_differ_between_builds(
    stage: str, parameters: dict[str, str], path: str, expected: bool
) -> None:
    assert is_repeatable(stage, parameters, path) is expected


@pytest.mark.parametrize("depth", ["times", "full"])
def test_repository_as_built_has_no_difference(repository_dir: Path, depth: Depth) -> None:
    found = verify(repository_dir, depth)

    assert found == Verification(
        added=(), missing=(), changed=(), files=3, size_bytes=len(LARGE) + 4
    )
    assert found.is_as_built


@pytest.mark.parametrize("depth", ["times", "full"])
def test_changed_missing_and_added_files_are_named(repository_dir: Path, depth: Depth) -> None:
    (repository_dir / "ensemble/config.pbtxt").write_bytes(b"NAME")
    (repository_dir / "ensemble/1/.keep").unlink()
    (repository_dir / "ensemble/1/model.py").write_text("")
    (repository_dir / "ensemble/1/__pycache__").mkdir()
    (repository_dir / "ensemble/1/__pycache__/model.pyc").write_text("")
    (repository_dir / "forge.lock").write_text("{}")

    assert differences(verify(repository_dir, depth)) == [
        "changed ensemble/config.pbtxt",
        "missing ensemble/1/.keep",
        "added ensemble/1/model.py",
    ]


def test_small_edit_with_the_old_size_and_time_is_found_without_reading_large_files(
    repository_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = repository_dir / "ensemble/config.pbtxt"
    before = path.stat()
    path.write_bytes(b"NAME")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    # Reading it would fail.
    monkeypatch.setattr("trtllm_forge.delivery.verification.digest_files", None)

    assert differences(verify(repository_dir, "times")) == ["changed ensemble/config.pbtxt"]


def test_large_file_written_after_the_manifest_is_read_once_and_then_remembered(
    repository_dir: Path,
) -> None:
    touch_later(repository_dir / ENGINE)
    reporter = RecordingReporter()

    found = verify(repository_dir, "times", reporter)

    assert found.is_as_built
    assert reporter.notes == [
        f"reading {ENGINE}: newer than {MANIFEST_NAME}, as in a copied repository"
    ]
    memory = json.loads((repository_dir.parent / "cache" / "digests.json").read_text())
    assert list(memory["files"]) == [str(repository_dir / ENGINE)]


@pytest.mark.parametrize("depth", ["times", "full"])
def test_large_file_edited_in_place_is_found(repository_dir: Path, depth: Depth) -> None:
    (repository_dir / ENGINE).write_bytes(LARGE[:-1] + b"x")
    touch_later(repository_dir / ENGINE)

    assert differences(verify(repository_dir, depth)) == [f"changed {ENGINE}"]


def test_only_full_depth_finds_an_edit_that_hides_its_time(repository_dir: Path) -> None:
    path = repository_dir / ENGINE
    before = path.stat()
    path.write_bytes(LARGE[:-1] + b"x")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))

    assert differences(verify(repository_dir, "times")) == []
    assert differences(verify(repository_dir, "full")) == [f"changed {ENGINE}"]


def test_folder_moved_elsewhere_with_a_link_in_its_place_is_as_built(
    repository_dir: Path, tmp_path: Path
) -> None:
    engine_dir = repository_dir / "tensorrt_llm/1/engine"
    engine_dir.rename(tmp_path / "big-disk")
    engine_dir.symlink_to(tmp_path / "big-disk")

    assert differences(verify(repository_dir, "full")) == []


def test_link_that_leads_nowhere_is_a_missing_file(repository_dir: Path) -> None:
    path = repository_dir / ENGINE
    path.unlink()
    path.symlink_to("gone")

    assert differences(verify(repository_dir, "full")) == [f"missing {ENGINE}"]


def trusting(folder: Path, verify: trust.Verify = "times") -> RecordingReporter:
    reporter = RecordingReporter()
    require_trusted(
        folder,
        verify,
        cache_dir=folder.parent / "cache",
        reporter=reporter,
        command="forge serve coder",
    )
    return reporter


def on_machine(
    monkeypatch: pytest.MonkeyPatch, *, gpus: tuple[str, ...] = (), **versions: str
) -> None:
    """Let this machine have these GPUs, by compute capability, and these packages."""
    found = tuple(Gpu(name="X", memory_bytes=1, compute_capability=c) for c in gpus)
    monkeypatch.setattr("trtllm_forge.machine.gpu.detect_gpus", lambda: found)
    monkeypatch.setattr(trust, "_installed", lambda name: versions.get(name.replace("-", "_")))


def test_server_refuses_files_that_are_not_those_built(
    repository_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_machine(monkeypatch)
    (repository_dir / "ensemble/config.pbtxt").write_bytes(b"NAME")
    (repository_dir / "other").mkdir()
    (repository_dir / "other/config.pbtxt").write_bytes(b"name")

    with pytest.raises(CheckpointError) as caught:
        trusting(repository_dir)

    assert printed(caught.value) == (
        f"error: {repository_dir} does not match its forge.manifest.json\n"
        "  why:  ensemble/config.pbtxt was changed\n"
        "        other/config.pbtxt was added\n"
        "  try:  forge serve coder --no-verify",
        4,
    )


def test_server_refuses_every_folder_that_triton_would_take_for_a_model_or_a_version(
    repository_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_machine(monkeypatch)
    (repository_dir / ".git").mkdir()
    (repository_dir / ".git/config").write_text("")
    (repository_dir / "ensemble/2").mkdir()
    (repository_dir / "empty").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/config.pbtxt").write_bytes(b"name")
    (repository_dir / "linked").symlink_to(tmp_path / "elsewhere")
    (repository_dir / "tensorrt_llm/1/loop").symlink_to(repository_dir)

    with pytest.raises(CheckpointError) as caught:
        trusting(repository_dir)

    assert printed(caught.value) == (
        f"error: {repository_dir} does not match its forge.manifest.json\n"
        "  why:  .git/config was added\n"
        "        empty/ was added\n"
        "        ensemble/2/ was added\n"
        "        linked/ was added\n"
        "        tensorrt_llm/1/loop/ was added\n"
        "  try:  forge serve coder --no-verify",
        4,
    )


def test_files_beside_the_models_are_nothing_to_the_server(
    repository_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_machine(monkeypatch)
    (repository_dir / "README.md").write_text("mine")
    (repository_dir / ".gitignore").write_text("")
    (repository_dir / "gone").symlink_to("nowhere")

    assert trusting(repository_dir).warnings == []


def test_unverified_repository_is_served_with_a_warning(repository_dir: Path) -> None:
    (repository_dir / "ensemble/config.pbtxt").write_bytes(b"NAME")

    assert trusting(repository_dir, "off").warnings == [
        f"{repository_dir} was not compared with its forge.manifest.json"
    ]


def test_repository_made_by_hand_is_served_as_it_is(tmp_path: Path) -> None:
    assert trusting(tmp_path).warnings == []
    assert trusting(tmp_path, "off").warnings == []
    assert trusting(tmp_path, "full").warnings == [
        f"{tmp_path} has no forge.manifest.json: nothing could be verified"
    ]


def test_engine_for_another_gpu_architecture_is_refused(
    repository_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_machine(monkeypatch, gpus=("9.0", "8.0"))

    with pytest.raises(PrerequisiteError) as caught:
        trusting(repository_dir)

    assert printed(caught.value) == (
        f"error: the engine of {repository_dir} is for sm_90, this machine has X, sm_80\n"
        "  why:  a TensorRT engine runs only on the GPU architecture it was built for\n"
        "  try:  forge serve coder --no-verify",
        3,
    )


def test_engine_of_another_release_is_refused(
    repository_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_machine(monkeypatch, gpus=("9.0",), tensorrt_llm="1.2.0")

    with pytest.raises(PrerequisiteError) as caught:
        trusting(repository_dir)

    assert printed(caught.value) == (
        f"error: the engine of {repository_dir} is for TensorRT-LLM 1.2.1, 1.2.0 is installed "
        "here\n"
        "  why:  an engine loads only in the release that built it\n"
        "  try:  forge serve coder --no-verify",
        3,
    )


@pytest.mark.parametrize("version", ["1.2.1", "1.2.1+cu13", "1.2.1.0"])
def test_engine_is_served_where_gpu_and_release_are_its_own(
    repository_dir: Path, monkeypatch: pytest.MonkeyPatch, version: str
) -> None:
    on_machine(monkeypatch, gpus=("9.0", "9.0"), tensorrt_llm=version)

    assert trusting(repository_dir).warnings == []


def twin(folder: Path) -> None:
    describe(
        folder,
        runtime="openvino",
        gpu_architecture=None,
        versions={"openvino": "2026.4.1", "openvino-genai": "2026.4.1.0"},
    )


def test_twin_made_by_a_newer_openvino_is_refused(
    repository_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    twin(repository_dir)
    on_machine(monkeypatch, openvino="2026.3.0", openvino_genai="2026.3.0.0")

    with pytest.raises(PrerequisiteError) as caught:
        trusting(repository_dir)

    assert printed(caught.value) == (
        f"error: {repository_dir} was made with openvino 2026.4.1, 2026.3.0 is installed here\n"
        "  why:  OpenVINO reads models of older releases, not of newer ones\n"
        "  try:  forge serve coder --no-verify",
        3,
    )


def test_twin_made_by_an_older_openvino_is_served_with_a_warning(
    repository_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    twin(repository_dir)
    on_machine(monkeypatch, openvino="2026.10.0", openvino_genai="2026.4.1.0")

    assert trusting(repository_dir).warnings == [
        f"{repository_dir} was made with openvino 2026.4.1 and is served with 2026.10.0; "
        "generated text may differ"
    ]


def test_llm_api_of_another_release_is_a_warning(
    repository_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    describe(repository_dir, runtime="llmapi", gpu_architecture=None)
    on_machine(monkeypatch, gpus=("8.0",), tensorrt_llm="1.3.0rc1")

    assert trusting(repository_dir).warnings == [
        f"{repository_dir} was made for TensorRT-LLM 1.2.1, 1.3.0rc1 is installed"
    ]
