from __future__ import annotations

import json
import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from typer.testing import CliRunner

from trtllm_forge.cli.app import app
from trtllm_forge.cli.console import error_text
from trtllm_forge.delivery.manifest import ImageReference, Manifest, SourceCheckpoint
from trtllm_forge.delivery.sbom import SbomModel, SbomSubject, sbom_document, subject_of_manifest
from trtllm_forge.errors import ConfigError, PrerequisiteError
from trtllm_forge.pipeline.store import OutputFile

if TYPE_CHECKING:
    from pathlib import Path

COMMIT = "9" * 40
SUBJECT = SbomSubject(
    name="coder",
    sha256="a" * 64,
    runtime="trtllm",
    model=SbomModel(
        repo_id="bigcode/starcoder",
        revision=COMMIT,
        origin="hub",
        licence="bigcode-openrail-m",
        sha256={"config.json": "b" * 64},
    ),
    versions={"python": "3.12.3", "tensorrt_llm": "1.2.1", "trtllm-forge": "0.1.0"},
    gpu_architecture="sm_90",
    image="nvcr.io/nvidia/tritonserver:26.07-trtllm-python-py3",
    image_digest=f"sha256:{'c' * 64}",
)
MANIFEST = Manifest(
    runtime="trtllm",
    checkpoint=SourceCheckpoint(
        repo_id="bigcode/starcoder",
        revision=COMMIT,
        origin="hub",
        licence="bigcode-openrail-m",
        files=(OutputFile(path="config.json", sha256="b" * 64, size_bytes=2),),
    ),
    recipe={},
    versions=SUBJECT.versions,
    gpu_architecture="sm_90",
    image=ImageReference(reference=str(SUBJECT.image), digest=SUBJECT.image_digest),
    stages={},
    checks=(),
    files=(OutputFile(path="ensemble/config.pbtxt", sha256="d" * 64, size_bytes=9),),
    varying=(),
)


def components(subject: SbomSubject = SUBJECT) -> dict[str, Any]:
    document = json.loads(sbom_document(subject))
    return {component.pop("bom-ref"): component for component in document["components"]}


def test_model_is_a_component_with_its_commit_licence_and_digests() -> None:
    assert components()["model"] == {
        "type": "machine-learning-model",
        "group": "bigcode",
        "name": "starcoder",
        "version": COMMIT,
        "purl": f"pkg:huggingface/bigcode/starcoder@{COMMIT}",
        "licenses": [{"license": {"name": "bigcode-openrail-m"}}],
        "properties": [{"name": "forge:origin", "value": "hub"}],
        "components": [
            {
                "type": "file",
                "bom-ref": "model/config.json",
                "name": "config.json",
                "hashes": [{"alg": "SHA-256", "content": "b" * 64}],
            }
        ],
    }


def test_tools_and_image_are_components() -> None:
    found = components()
    assert {ref: found[ref].get("purl") for ref in found if ref != "model"} == {
        "tool/trtllm-forge": "pkg:pypi/trtllm-forge@0.1.0",
        "tool/tensorrt-llm": "pkg:pypi/tensorrt-llm@1.2.1",
        "tool/python": "pkg:generic/python@3.12.3",
        "image": None,
    }
    assert found["image"] == {
        "type": "container",
        "name": "nvcr.io/nvidia/tritonserver",
        "version": "26.07-trtllm-python-py3",
        "hashes": [{"alg": "SHA-256", "content": "c" * 64}],
    }


def test_repository_depends_on_all_of_them() -> None:
    document = json.loads(sbom_document(SUBJECT))
    assert document["metadata"]["component"]["name"] == "coder"
    depends = {entry["ref"]: entry.get("dependsOn") for entry in document["dependencies"]}
    assert depends["repository"] == sorted(components())


def test_licence_that_spdx_knows_goes_by_its_id() -> None:
    for word, expected in {
        "apache-2.0": [{"license": {"id": "Apache-2.0"}}],
        "llama3.1": [{"license": {"name": "llama3.1"}}],
        None: None,
    }.items():
        model = replace(SUBJECT.model, licence=word)
        assert components(replace(SUBJECT, model=model))["model"].get("licenses") == expected


def test_checkpoint_of_a_folder_has_no_address() -> None:
    model = replace(SUBJECT.model, origin="local", repo_id="mine", revision="e" * 64)
    found = components(replace(SUBJECT, model=model, image=None, image_digest=None))
    assert "purl" not in found["model"]
    assert "group" not in found["model"]
    assert "image" not in found


def test_document_is_the_same_every_time_and_carries_no_moment() -> None:
    text = sbom_document(SUBJECT)
    assert text == sbom_document(replace(SUBJECT))
    assert "timestamp" not in json.loads(text)["metadata"]
    reversed_versions = dict(reversed(list(SUBJECT.versions.items())))
    assert text == sbom_document(replace(SUBJECT, versions=reversed_versions))


@pytest.mark.parametrize(
    "changed",
    [
        replace(SUBJECT, sha256="f" * 64),
        replace(SUBJECT, name="other"),
        replace(SUBJECT, versions={}),
        replace(SUBJECT, model=replace(SUBJECT.model, revision="8" * 40)),
        replace(SUBJECT, image_digest=None),
    ],
    ids=["content", "name", "versions", "revision", "image"],
)
def test_serial_number_changes_with_what_it_is_about(changed: SbomSubject) -> None:
    numbers = {json.loads(sbom_document(s))["serialNumber"] for s in (SUBJECT, changed)}
    assert len(numbers) == 2


def test_document_is_valid_cyclonedx_1_6() -> None:
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator

    validator = JsonStrictValidator(SchemaVersion.V1_6)
    local = replace(SUBJECT.model, origin="local", licence=None, sha256={})
    for subject in (SUBJECT, replace(SUBJECT, model=local, image="image", image_digest=None)):
        assert validator.validate_str(sbom_document(subject)) is None
    assert validator.validate_str('{"bomFormat": "CycloneDX"}') is not None


def test_manifest_says_all_that_is_needed() -> None:
    subject = subject_of_manifest(MANIFEST, name="coder")
    assert replace(subject, sha256="a" * 64) == SUBJECT


def run(*arguments: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, ["sbom", *arguments], prog_name="forge")
    return result.exit_code, result.stdout, result.stderr


def test_command_prints_or_writes_the_document(tmp_path: Path) -> None:
    folder = tmp_path / "coder"
    folder.mkdir()
    (folder / "forge.manifest.json").write_text(MANIFEST.to_text(), encoding="utf-8")
    expected = sbom_document(subject_of_manifest(MANIFEST, name="coder"))
    assert run(str(folder)) == (0, expected, "")
    output_path = tmp_path / "forge.sbom.json"
    assert run(str(folder), "--output", str(output_path)) == (0, f"wrote {output_path}\n", "")
    assert output_path.read_text(encoding="utf-8") == expected
    assert run(str(folder), "--output", str(output_path)) == (
        2,
        "",
        f"error: {output_path} already exists\n"
        "  why:  it is replaced only with --force\n"
        f"  try:  forge sbom {folder} --output {output_path} --force\n",
    )
    code, stdout, _ = run(str(folder), "--output", str(output_path), "--force", "--json")
    assert (code, json.loads(stdout)) == (
        0,
        {"schema": 1, "path": str(output_path), "sbom": json.loads(expected)},
    )
    code, _, stderr = run(str(folder), "--output", str(tmp_path / "absent" / "x"))
    assert (code, stderr) == (
        2,
        f"error: {tmp_path}/absent/x cannot be written\n"
        f"  why:  {tmp_path}/absent: no such file or directory\n",
    )


def test_repository_without_a_manifest_is_refused(tmp_path: Path) -> None:
    code, stdout, stderr = run(str(tmp_path))
    assert (code, stdout) == (ConfigError.exit_code, "")
    assert stderr == (
        f"error: {tmp_path} has no forge.manifest.json\n"
        "  why:  the SBOM is made from it; build writes it into every repository\n"
        "  try:  forge build MODEL\n"
    )


def test_missing_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cyclonedx.model", None)
    with pytest.raises(PrerequisiteError) as caught:
        sbom_document(SUBJECT)
    assert error_text(caught.value) == (
        "error: the Python package cyclonedx-python-lib is missing\n"
        "  why:  it is needed to write the SBOM\n"
        "  try:  pip install --force-reinstall trtllm-forge"
    )
