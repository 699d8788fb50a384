"""The parts of a repository as a CycloneDX 1.6 document, ``forge.sbom.json``.

The model is a component of type ``machine-learning-model`` with its files' digests; the other
components are forge, the packages that touched the repository, and the image. The document depends
only on its subject: its serial number is derived from it, and it contains no time.
"""

from __future__ import annotations

import json
import re
import shlex
import uuid
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from trtllm_forge.delivery.manifest import read_manifest
from trtllm_forge.errors import ConfigError, PrerequisiteError, unwritable
from trtllm_forge.files.digest import canonical_json, sha256_text
from trtllm_forge.files.staging import write_whole
from trtllm_forge.triton.repository.names import MANIFEST_NAME

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from trtllm_forge.delivery.manifest import Manifest

_FORGE = "trtllm-forge"
_NAMESPACE = uuid.uuid5(uuid.NAMESPACE_URL, "https://cyclonedx.org/trtllm-forge")
_COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True, kw_only=True)
class SbomModel:
    """The model of a repository.

    Attributes:
        repo_id: Hugging Face name, or the name of a folder.
        revision: The commit, or a digest over the folder's files.
        origin: ``hub``, ``local`` or ``sample``.
        licence: The Hub's name for it, or None if unknown.
        sha256: Digest of each of its files, by path.
    """

    repo_id: str
    revision: str
    origin: str
    licence: str | None = None
    sha256: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class SbomSubject:
    """A repository and its parts.

    Attributes:
        name: Name of the repository.
        sha256: Digest that identifies its content.
        runtime: What executes its engine.
        model: The model.
        versions: Versions of the packages and tools that touched it, including forge, by name.
        gpu_architecture: What its engine is bound to, or None.
        image: The image whose tools made the engine, or None.
        image_digest: ``sha256:...``, or None if unknown.
    """

    name: str
    sha256: str
    runtime: str
    model: SbomModel
    versions: Mapping[str, str]
    gpu_architecture: str | None = None
    image: str | None = None
    image_digest: str | None = None


def subject_of_manifest(manifest: Manifest, *, name: str) -> SbomSubject:
    """Return the subject described by the manifest of the repository ``name``."""
    files = {file.path: file.sha256 for file in manifest.files}
    checkpoint, image = manifest.checkpoint, manifest.image
    return SbomSubject(
        name=name,
        sha256=sha256_text(canonical_json(files)),
        runtime=manifest.runtime,
        model=SbomModel(
            repo_id=checkpoint.repo_id,
            revision=checkpoint.revision,
            origin=checkpoint.origin,
            licence=checkpoint.licence,
            sha256={file.path: file.sha256 for file in checkpoint.files},
        ),
        versions=manifest.versions,
        gpu_architecture=manifest.gpu_architecture,
        image=image.reference if image else None,
        image_digest=image.digest if image else None,
    )


def sbom_document(subject: SbomSubject) -> str:
    """Return the text of the document; equal subjects give equal text.

    Raises:
        PrerequisiteError: The library for CycloneDX is missing.
    """
    try:
        from cyclonedx.model import HashAlgorithm, HashType, Property
        from cyclonedx.model.bom import Bom
        from cyclonedx.model.component import Component, ComponentType
        from cyclonedx.output.json import JsonV1Dot6
    except ImportError as error:
        what = "the Python package cyclonedx-python-lib is missing"
        why = "it is needed to write the SBOM"
        hint = "pip install --force-reinstall trtllm-forge"
        raise PrerequisiteError(what, why=why, hint=hint) from error
    properties = {"forge:runtime": subject.runtime}
    if subject.gpu_architecture:
        properties["forge:gpu_architecture"] = subject.gpu_architecture
    root = Component(
        name=subject.name,
        type=ComponentType.APPLICATION,
        bom_ref="repository",
        description="Triton model repository",
        hashes=[HashType(alg=HashAlgorithm.SHA_256, content=subject.sha256)],
        properties=[Property(name=name, value=value) for name, value in properties.items()],
    )
    components = [_model(subject.model), *_tools(subject)]
    if subject.image:
        components.append(_image(subject.image, subject.image_digest))
    bom = Bom(components=components, serial_number=_serial_number(subject))
    bom.metadata.component = root
    bom.register_dependency(root, components)
    text: str = JsonV1Dot6(bom).output_as_string(indent=2)
    return _without_time(text)


def repository_sbom(repository_dir: Path) -> str:
    """Return the document for a repository with a manifest.

    Raises:
        ConfigError: It has no manifest.
        CheckpointError: Its manifest is damaged.
        PrerequisiteError: The library for CycloneDX is missing.
    """
    manifest = read_manifest(repository_dir)
    if manifest is None:
        what = f"{repository_dir} has no {MANIFEST_NAME}"
        why = "the SBOM is made from it; build writes it into every repository"
        raise ConfigError(what, why=why, hint="forge build MODEL")
    return sbom_document(subject_of_manifest(manifest, name=repository_dir.resolve().name))


def write_sbom(
    text: str, output_path: Path, *, repository_dir: Path, overwrite: bool = False
) -> None:
    """Write the document of a repository to a file.

    Raises:
        ConfigError: The file exists, or cannot be written.
    """
    if output_path.exists() and not overwrite:
        what = f"{output_path} already exists"
        words = ["forge", "sbom", str(repository_dir), "--output", str(output_path), "--force"]
        raise ConfigError(what, why="it is replaced only with --force", hint=shlex.join(words))
    try:
        write_whole(output_path, text)
    except OSError as error:
        raise unwritable(output_path, error) from error


def _model(model: SbomModel) -> Any:
    from cyclonedx.model import HashAlgorithm, HashType, Property
    from cyclonedx.model.component import Component, ComponentType

    files = [
        Component(
            name=path,
            type=ComponentType.FILE,
            bom_ref=f"model/{path}",
            hashes=[HashType(alg=HashAlgorithm.SHA_256, content=sha256)],
        )
        for path, sha256 in sorted(model.sha256.items())
    ]
    group, _, name = model.repo_id.rpartition("/")
    return Component(
        name=name,
        group=group or None,
        version=model.revision,
        type=ComponentType.MACHINE_LEARNING_MODEL,
        bom_ref="model",
        purl=_model_purl(model, group, name),
        licenses=_licences(model.licence),
        properties=[Property(name="forge:origin", value=model.origin)],
        components=files,
    )


def _model_purl(model: SbomModel, group: str, name: str) -> Any:
    from packageurl import PackageURL

    # A Hugging Face package URL takes a commit in lower case as its version.
    if model.origin != "hub" or not _COMMIT.fullmatch(model.revision):
        return None
    return PackageURL(
        type="huggingface", namespace=group or None, name=name, version=model.revision
    )


def _licences(word: str | None) -> list[Any]:
    from cyclonedx.model.license import DisjunctiveLicense
    from cyclonedx.spdx import fixup_id

    if not word:
        return []
    # The Hub's names are SPDX ids in lower case, or licences that SPDX does not have.
    spdx = fixup_id(word)
    return [DisjunctiveLicense(id=spdx) if spdx else DisjunctiveLicense(name=word)]


def _tools(subject: SbomSubject) -> list[Any]:
    from cyclonedx.model.component import Component, ComponentType
    from packageurl import PackageURL

    components = []
    for name, version in sorted(subject.versions.items()):
        distribution = name.replace("_", "-")
        components.append(
            Component(
                name=distribution,
                version=version,
                type=ComponentType.APPLICATION if name == _FORGE else ComponentType.LIBRARY,
                bom_ref=f"tool/{distribution}",
                purl=PackageURL(
                    # Everything else comes from the Python package index.
                    type="generic" if name == "python" else "pypi",
                    name=distribution,
                    version=version,
                ),
            )
        )
    return components


def _image(reference: str, digest: str | None) -> Any:
    from cyclonedx.model import HashAlgorithm, HashType
    from cyclonedx.model.component import Component, ComponentType

    name, _, tag = reference.rpartition(":")
    hashes = []
    if digest and digest.startswith("sha256:"):
        hashes = [HashType(alg=HashAlgorithm.SHA_256, content=digest.removeprefix("sha256:"))]
    return Component(
        name=name or tag,
        version=tag if name else None,
        type=ComponentType.CONTAINER,
        bom_ref="image",
        hashes=hashes,
    )


def _serial_number(subject: SbomSubject) -> uuid.UUID:
    """Return a serial number derived from the subject."""
    text = canonical_json(
        {
            "name": subject.name,
            "sha256": subject.sha256,
            "model": [subject.model.repo_id, subject.model.revision],
            "versions": dict(subject.versions),
            "image": [subject.image, subject.image_digest],
        }
    )
    return uuid.uuid5(_NAMESPACE, text)


def _without_time(text: str) -> str:
    """Return the document without the time that the library writes into it."""
    document = json.loads(text)
    document["metadata"].pop("timestamp", None)
    return json.dumps(document, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
