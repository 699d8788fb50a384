"""TensorRT-LLM's releases and the Triton images that carry them.

The facts are in ``data/releases.yaml``. A file of the same form, set as ``releases_file``, adds
newer releases and images::

    schema: 1
    images:
      - {triton: "26.09", trtllm: "1.2.2", size_gb: 14.3, examples: true}
    releases:
      "1.2.2": {like: "1.2.1", engine: true, llmapi: true}
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from packaging.version import InvalidVersion, Version

from trtllm_forge.errors import ConfigError
from trtllm_forge.files.resources import read_yaml
from trtllm_forge.releases.overlay import read_overlay

if TYPE_CHECKING:
    from collections.abc import Mapping

Evidence = Literal["exact", "nearest", "unsupported"]
Flow = Literal["engine", "llmapi"]

FLOW_NAMES: Mapping[Flow, str] = {"engine": "the engine flow", "llmapi": "the LLM API"}

_NO_VERSION = Version("0.dev0")


@dataclass(frozen=True, kw_only=True)
class Image:
    """A Triton image that carries TensorRT-LLM.

    Attributes:
        reference: What ``docker pull`` takes.
        triton_release: ``26.07``.
        trtllm_version: The TensorRT-LLM release in it.
        versions: Of server, python, tensorrt, cuda and driver, as far as known.
        size_gb: Compressed size in GB of 10^9 bytes, from the compatibility table.
        has_examples: Whether TensorRT-LLM's examples are in ``/app/examples``.
    """

    reference: str
    triton_release: str
    trtllm_version: str
    versions: Mapping[str, str]
    size_gb: float
    has_examples: bool

    @property
    def size_bytes(self) -> int:
        """Return the download size in bytes."""
        return int(self.size_gb * 1e9)


@dataclass(frozen=True, kw_only=True)
class Release:
    """One release of TensorRT-LLM.

    Attributes:
        version: Its full name, ``1.2.1``.
        flows: What it can do: build engines, serve through the LLM API.
        gpu_architectures: Those it documents, such as ``sm_90``.
        images: The Triton images that carry it, newest first.
        versions: Of tensorrt, cuda, torch, modelopt and transformers, as far as known.
        tables: The release whose flag tables apply: its own first two numbers, or those of
            the release that an overlay says it is like.
        contract: The release whose Triton models apply.
        is_overlaid: Whether it comes from the user's ``releases_file``.
    """

    version: str
    flows: tuple[Flow, ...]
    gpu_architectures: tuple[str, ...]
    images: tuple[Image, ...] = ()
    versions: Mapping[str, str] = field(default_factory=dict)
    tables: str
    contract: str
    is_overlaid: bool = False

    @property
    def image(self) -> Image | None:
        """Return the newest image that carries it."""
        return self.images[0] if self.images else None

    def is_before(self, version: str) -> bool:
        """Return whether it is older than ``version``."""
        return version_key(self.version) < version_key(version)


@dataclass(frozen=True, kw_only=True)
class Catalogue:
    """Every release that is known, oldest first, and every image, newest first."""

    releases: Mapping[str, Release]
    images: tuple[Image, ...]
    sources: Mapping[str, str]

    def newest(self, flow: Flow, *, line: str = "") -> Release | None:
        """Return the newest release of ``line`` with ``flow``, preferring those with an image."""
        fitting = [
            release
            for release in self.releases.values()
            if flow in release.flows and is_of_line(release.version, line)
        ]
        with_image = [release for release in fitting if release.image]
        return next(reversed(with_image or fitting), None)

    def find(self, version: str) -> Release:
        """Return the release called ``version``; ``1.2`` stands for its newest patch.

        Raises:
            ConfigError: It is unknown: newer or older than the known ones, or misspelt.
        """
        if version in self.releases:
            return self.releases[version]
        # A name with four numbers is a build for one container, never meant by a shorter name. A
        # name with three numbers is one release, not its candidates.
        of_line = [
            name
            for name in self.releases
            if is_of_line(name, version) and not re.fullmatch(r"\d+(\.\d+){3}", name)
        ]
        if of_line and version.count(".") < 2:
            with_image = [name for name in of_line if self.releases[name].image]
            return self.releases[(with_image or of_line)[-1]]
        raise self._unknown(version)

    def _unknown(self, version: str) -> ConfigError:
        names = list(self.releases)
        what = f"TensorRT-LLM {version} is not a release that this forge knows"
        if version_key(version) > version_key(names[-1]):
            newest = self.newest("engine")
            why = f"it is newer than {names[-1]}, the last one known; releases_file can describe it"
            nearest = newest.version if newest else names[-1]
        elif version_key(version) < version_key(names[0]):
            why = f"forge supports releases from {names[0]} on"
            nearest = names[0]
        else:
            before = [n for n in names if version_key(n) <= version_key(version)]
            nearest = before[-1]
            why = f"the nearest known release is {nearest}"
        return ConfigError(what, why=why, hint=f"--trtllm-version {nearest}")


def version_key(version: str) -> tuple[Version, str]:
    """Return a sort key for versions; builds of one release, such as 1.2.1+cu13, are equal.

    Any text is accepted: a text that is not a version sorts first and equals only itself.
    """
    try:
        return Version(version.partition("+")[0]), ""
    except InvalidVersion:
        return _NO_VERSION, version


def is_of_line(version: str, line: str) -> bool:
    """Return whether ``version`` is ``line`` or one of its patches, as 1.2.1 is of 1.2."""
    return not line or version == line or version.startswith((f"{line}.", f"{line}rc"))


@lru_cache(maxsize=4)
def read_catalogue(overlay: Path | str | None = None) -> Catalogue:
    """Return the releases that ship with forge and those that the file ``overlay`` adds.

    An overlay's name may begin with ``~``.

    Raises:
        ConfigError: The overlay cannot be read or is malformed.
    """
    document = read_yaml("releases.yaml")
    if overlay is not None:
        path = Path(overlay).expanduser()
        document = _with_overlay(document, read_overlay(path), path)
    images = tuple(_image(row, document) for row in document["images"])
    overlaid = document.get("overlaid", frozenset())
    releases = {
        version: _release(version, row, images, is_overlaid=version in overlaid)
        for version, row in _rows(document).items()
    }
    return Catalogue(
        releases=dict(sorted(releases.items(), key=lambda item: version_key(item[0]))),
        images=images,
        sources=document["sources"],
    )


def _rows(document: dict[str, Any]) -> dict[str, dict[str, Any]]:
    pre = document["pre_releases"]
    shared = {"engine": False, "llmapi": True, "gpus": pre["gpus"], "contract": pre["contract"]}
    return {**dict.fromkeys(pre["versions"], shared), **document["releases"]}


def _image(row: dict[str, Any], document: dict[str, Any]) -> Image:
    known = ("server", "python", "tensorrt", "cuda", "driver")
    repository, suffix = document["image_repository"], document["image_suffix"]
    return Image(
        reference=row.get("reference") or f"{repository}:{row['triton']}{suffix}",
        triton_release=row["triton"],
        trtllm_version=row["trtllm"],
        versions={name: str(row[name]) for name in known if name in row},
        size_gb=float(row["size_gb"]),
        has_examples=row["examples"],
    )


def _release(
    version: str, row: dict[str, Any], images: tuple[Image, ...], *, is_overlaid: bool
) -> Release:
    known = ("tensorrt", "cuda", "torch", "modelopt", "transformers")
    line = ".".join(version.split("rc")[0].split(".")[:2])
    flows: list[Flow] = [flow for flow in FLOW_NAMES if row[flow]]
    return Release(
        version=version,
        flows=tuple(flows),
        gpu_architectures=tuple(sorted(row["gpus"], key=lambda name: int(name[len("sm_") :]))),
        images=tuple(image for image in images if image.trtllm_version == version),
        versions={name: str(row[name]) for name in known if name in row},
        tables=row.get("tables", line),
        contract=row.get("contract", line),
        is_overlaid=is_overlaid,
    )


def _with_overlay(document: dict[str, Any], overlay: dict[str, Any], path: Path) -> dict[str, Any]:
    """Return ``document`` with the overlay's entries, which come first."""
    known = _rows(document)
    releases: dict[str, Any] = {}
    for version, row in (overlay.get("releases") or {}).items():
        like = row["like"]
        if like not in known:
            order = sorted(known, key=version_key)
            before = [name for name in order if version_key(name) < version_key(like)]
            nearest = [*order[:1], *before][-1]
            what = f"releases_file {path}: release {version} is like {like}, which is not known"
            raise ConfigError(what, why=f"the nearest known release is {nearest}")
        line = ".".join(like.split("rc")[0].split(".")[:2])
        tables = {"tables": known[like].get("tables", line)}
        contract = {"contract": known[like].get("contract", line)}
        added = {key: value for key, value in row.items() if key != "like"}
        releases[version] = {**known[like], **tables, **contract, **added}
    return {
        **document,
        "images": [*(overlay.get("images") or ()), *document["images"]],
        "releases": {**document["releases"], **releases},
        "overlaid": frozenset(releases),
    }
