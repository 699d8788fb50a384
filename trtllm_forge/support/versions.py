"""What forge knows about TensorRT-LLM's releases, as text and as JSON.

Three questions can be asked: all releases, one release (by its name or by an image that carries
it), and which releases support an architecture. As JSON::

    {"schema": 1,
     "releases": [{"version": "1.2.1", "flows": ["engine", "llmapi"], "images": [...],
                   "tools": [{"tool", "flow", "evidence", "note", "source"}],
                   "converters": [{"family", "path", "evidence", "note", "source"}], ...}],
     "sources": {"compatibility": "repository@commit:path", ...}}

``evidence`` is ``exact`` for facts read at the release itself, ``nearest`` for facts read close to
it, and ``unsupported`` for what the release does not have.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Protocol

from trtllm_forge.errors import ConfigError
from trtllm_forge.releases.catalogue import FLOW_NAMES, version_key
from trtllm_forge.support.architecture_support import ArchitectureSupport, architecture_of
from trtllm_forge.support.release_tools import Tool, converters_of, tools_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from trtllm_forge.releases.catalogue import Catalogue, Image, Release

SCHEMA = 1

_RELEASE = re.compile(r"\d+(\.\d+)+(rc\d+)?(\.(post|dev)\d+)?")
_TRITON_RELEASE = re.compile(r"\d\d\.\d\d")


class Answer(Protocol):
    """An answer, as text and as JSON."""

    def text(self) -> str:
        """Return the answer as text."""

    def document(self) -> dict[str, object]:
        """Return the answer as the JSON document."""


def answer(
    catalogue: Catalogue,
    *,
    version: str | None = None,
    image: str | None = None,
    architecture: str | None = None,
) -> Answer:
    """Return what is known about one release, about support for an architecture, or about all.

    Args:
        catalogue: The releases.
        version: A release, or None for all.
        image: A Triton release, a tag or a full reference, instead of ``version``.
        architecture: As spelled in ``config.json``, or a preset or folder with one.

    Raises:
        ConfigError: The release, image or architecture is unknown; the error names the nearest.
        CheckpointError: The folder holds no checkpoint.
    """
    if version is not None and image is not None:
        what = f"VERSION {version} and --image {image} were both given"
        raise ConfigError(what, why="each names a release", hint=f"forge versions --image {image}")
    found = find_image(catalogue, image) if image is not None else None
    wanted = found.trtllm_version if found else version
    release = None if wanted is None else find_release(catalogue, wanted)
    releases = (release,) if release else _newest_first(catalogue)
    if architecture is not None:
        return ArchitectureSupport(architecture=architecture_of(architecture), releases=releases)
    if release is not None:
        return OneRelease(release=release, catalogue=catalogue, image=found)
    return AllReleases(catalogue=catalogue)


@dataclass(frozen=True, kw_only=True)
class AllReleases:
    """The answer about all releases."""

    catalogue: Catalogue

    def document(self) -> dict[str, object]:
        """Return every release, newest first, and the sources."""
        return {
            "schema": SCHEMA,
            "releases": [
                release_document(release, self.catalogue)
                for release in _newest_first(self.catalogue)
            ],
            "sources": dict(self.catalogue.sources),
        }

    def text(self) -> str:
        """Return a table of the images and one of the releases, newest first."""
        releases = _newest_first(self.catalogue)
        return "\n".join([*_image_lines(self.catalogue.images), "", *_release_lines(releases)])


@dataclass(frozen=True, kw_only=True)
class OneRelease:
    """The answer about one release; ``image`` is the image it was found by, if any."""

    release: Release
    catalogue: Catalogue
    image: Image | None

    def document(self) -> dict[str, object]:
        """Return the release, the given image, and the sources."""
        document: dict[str, object] = {"schema": SCHEMA}
        if self.image is not None:
            document["image"] = _image_document(self.image, self.catalogue)
        document["releases"] = [release_document(self.release, self.catalogue)]
        document["sources"] = dict(self.catalogue.sources)
        return document

    def text(self) -> str:
        """Return what the release has, where that was read, and notes on it."""
        release = self.release
        lines = []
        if self.image is not None:
            lines += [f"{self.image.reference} carries TensorRT-LLM {release.version}", ""]
        flows = " and ".join(FLOW_NAMES[flow] for flow in release.flows)
        lines.append(f"TensorRT-LLM {release.version}: {flows}")
        lines.append(f"GPUs        {', '.join(release.gpu_architectures)}")
        if release.versions:
            facts = ", ".join(f"{name} {version}" for name, version in release.versions.items())
            lines.append(f"built with  {facts}")
        if release.images:
            lines += ["", *_image_lines(release.images)]
        lines += ["", *_tool_lines(tools_of(release))]
        converters = converters_of(release)
        if converters:
            lines += ["", "converters, below TensorRT-LLM's folder"]
            lines += [f"  {converter.name:<16}{converter.path}" for converter in converters]
        lines += [f"note        {note}" for note in _notes(release, self.catalogue)]
        return "\n".join(lines)


def find_release(catalogue: Catalogue, version: str) -> Release:
    """Return the release called ``version``.

    Raises:
        ConfigError: It is unknown; the hint names the nearest known one.
    """
    try:
        return catalogue.find(version)
    except ConfigError as error:
        if any(image.triton_release == version for image in catalogue.images):
            what = f"{version} is a release of Triton, not of TensorRT-LLM"
            raise ConfigError(what, hint=f"forge versions --image {version}") from error
        if not _RELEASE.fullmatch(version):
            what = f'"{version}" is not a TensorRT-LLM release'
            raise ConfigError(
                what, why="a release looks like 1.2.1", hint="forge versions"
            ) from error
        names = [name for name, release in catalogue.releases.items() if release.image]
        before = [name for name in names if version_key(name) < version_key(version)]
        hint = f"forge versions {(before or names[:1])[-1]}"
        raise ConfigError(error.what, why=error.why, hint=hint) from error


def find_image(catalogue: Catalogue, name: str) -> Image:
    """Return the image with this Triton release, tag or full reference.

    Raises:
        ConfigError: It is unknown; the hint names the nearest known one.
    """
    for image in catalogue.images:
        tag = image.reference.rpartition(":")[2]
        if name in (image.reference, image.triton_release, tag):
            return image
    known = [image.triton_release for image in catalogue.images]
    found = _TRITON_RELEASE.search(name.rpartition(":")[2])
    triton_release = found[0] if found else ""
    if triton_release in known:
        image = catalogue.images[known.index(triton_release)]
        what = f"the image {name} is not known to carry TensorRT-LLM"
        why = f"for Triton {triton_release}, {image.reference} does"
        raise ConfigError(what, why=why, hint=f"forge versions --image {triton_release}")
    what = f"the image {name} is not one that this forge knows"
    order = sorted(known, key=version_key)
    if not triton_release:
        why = f"give a Triton release, {order[0]} to {order[-1]}, or a full image reference"
        raise ConfigError(what, why=why, hint=f"forge versions --image {order[-1]}")
    nearest = next((n for n in order if version_key(n) > version_key(triton_release)), order[-1])
    why = f"known are Triton {order[0]} to {order[-1]}; releases_file can describe more"
    raise ConfigError(what, why=why, hint=f"forge versions --image {nearest}")


def _newest_first(catalogue: Catalogue) -> tuple[Release, ...]:
    return tuple(catalogue.releases.values())[::-1]


def release_document(release: Release, catalogue: Catalogue) -> dict[str, object]:
    """Return everything that is known about a release."""
    return {
        "version": release.version,
        "flows": list(release.flows),
        "gpu_architectures": list(release.gpu_architectures),
        "versions": dict(release.versions),
        "images": [_image_document(image, catalogue) for image in release.images],
        "tools": [tool.document("tool") for tool in tools_of(release)],
        "converters": [tool.document("family") for tool in converters_of(release)],
        "is_overlaid": release.is_overlaid,
        "notes": _notes(release, catalogue),
    }


def _image_document(image: Image, catalogue: Catalogue) -> dict[str, object]:
    return {
        "reference": image.reference,
        "triton_release": image.triton_release,
        "trtllm_version": image.trtllm_version,
        "versions": dict(image.versions),
        "size_bytes": image.size_bytes,
        "has_examples": image.has_examples,
        "note": catalogue.sources.get(image.triton_release, ""),
    }


def _notes(release: Release, catalogue: Catalogue) -> list[str]:
    notes = []
    if release.is_overlaid:
        notes.append(f"described by releases_file as like {release.tables}")
    if not release.images:
        notes.append("no Triton image carries it")
    if "engine" not in release.flows:
        newest = catalogue.newest("engine")
        ends = f"; the newest that does is {newest.version}" if newest else ""
        notes.append(f"forge builds no engines with it{ends}")
    for image in release.images:
        if not image.has_examples:
            notes.append(
                f"image {image.triton_release} holds no converters: "
                "set --examples-dir to the examples folder of a clone"
            )
        if image.triton_release in catalogue.sources:
            notes.append(f"image {image.triton_release}: {catalogue.sources[image.triton_release]}")
    return notes


def _image_lines(images: Sequence[Image]) -> list[str]:
    heading = ("image", "TensorRT-LLM", "Triton", "Python", "TensorRT", "CUDA", "driver", "size")
    names = ("server", "python", "tensorrt", "cuda", "driver")
    rows = [
        (
            image.triton_release,
            image.trtllm_version,
            *(image.versions.get(name, "?") for name in names),
            f"{image.size_gb:.1f} GB",
        )
        for image in images
    ]
    return _columns([heading, *rows])


def _release_lines(releases: Sequence[Release]) -> list[str]:
    """Return a row per release; pre-releases that differ only by name share one."""
    heading = ("TensorRT-LLM", "convert", "quantize", "build", "LLM API", "GPU architectures (sm_)")
    rows = []
    for facts, group in groupby(releases, key=_row_of):
        same = list(group)
        is_range = len(same) > 1
        name = f"{same[-1].version} to {same[0].version}" if is_range else same[0].version
        rows.append((name, *facts[1:]))
    return _columns([heading, *rows])


def _row_of(release: Release) -> tuple[str, ...]:
    evidence = {tool.name: tool.evidence for tool in tools_of(release)}
    numbers = sorted(int(name.removeprefix("sm_")) for name in release.gpu_architectures)
    # A release with an image always gets its own row.
    return (
        release.version if release.images or release.is_overlaid else release.tables,
        evidence["convert_checkpoint.py"],
        evidence["quantize.py"],
        evidence["trtllm-build"],
        evidence["tensorrt_llm.LLM"],
        " ".join(map(str, numbers)),
    )


def _tool_lines(tools: Sequence[Tool]) -> list[str]:
    lines = []
    for tool in tools:
        lines.append(f"{tool.name:<24}{tool.evidence}{f': {tool.note}' if tool.note else ''}")
        if tool.source:
            lines.append(f"  {tool.source}")
    return lines


def _columns(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
