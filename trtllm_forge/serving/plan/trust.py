"""Refuses a repository that does not match its manifest or cannot run on this machine.

Whether a difference is refused or warned about depends on what breaks:

- A TensorRT engine loads only on the GPU architecture and in the TensorRT-LLM release it was
  built with: another one is refused.
- OpenVINO reads models of older releases, not of newer ones (openvinotoolkit/openvino issue
  300): an OpenVINO older than the exporting one is refused, a newer one is a warning.
- The LLM API reads the checkpoint itself; another release may have other settings: a warning.
- Triton ignores files beside the folders. It treats every folder as a model, even a hidden or
  empty one, and every number in it as a version: inside folders every difference counts.

A repository without a manifest is served unverified.
"""

from __future__ import annotations

from importlib import metadata
from typing import TYPE_CHECKING, Literal

from trtllm_forge.delivery.manifest import read_manifest
from trtllm_forge.delivery.verification import verify_files
from trtllm_forge.errors import CheckpointError, PrerequisiteError
from trtllm_forge.triton.repository.names import MANIFEST_NAME

if TYPE_CHECKING:
    from pathlib import Path

    from trtllm_forge.delivery.manifest import Manifest
    from trtllm_forge.machine.gpu import Gpu
    from trtllm_forge.reporter import Reporter

Verify = Literal["times", "full", "off"]

_SHOWN = 8
_OPENVINO = ("openvino", "openvino-genai")


def require_trusted(
    repository_dir: Path,
    verify: Verify,
    *,
    cache_dir: Path,
    reporter: Reporter,
    command: str,
    in_container: bool = False,
) -> None:
    """Compare a repository and this machine with its manifest.

    Args:
        repository_dir: The repository.
        verify: How much is read, see ``verification``; ``off`` compares nothing and warns.
        cache_dir: Where digests of large files are remembered.
        reporter: Gets warnings about differences that do not break serving.
        command: The command that serves the repository.
        in_container: Whether it is served in a container, so that local packages do not matter.

    Raises:
        CheckpointError: Its files differ from those that were built.
        PrerequisiteError: This machine cannot run what was built.
    """
    if verify == "off":
        if (repository_dir / MANIFEST_NAME).exists():
            reporter.warning(f"{repository_dir} was not compared with its {MANIFEST_NAME}")
        return
    manifest = read_manifest(repository_dir)
    if manifest is None:
        if verify == "full":
            reporter.warning(f"{repository_dir} has no {MANIFEST_NAME}: nothing could be verified")
        return
    hint = f"{command} --no-verify"
    _require_files(repository_dir, manifest, verify, cache_dir, reporter, hint)
    if in_container:
        _require_gpu(repository_dir, manifest, hint)
    else:
        _require_machine(repository_dir, manifest, reporter, hint)


def _require_files(
    repository_dir: Path,
    manifest: Manifest,
    verify: Literal["times", "full"],
    cache_dir: Path,
    reporter: Reporter,
    hint: str,
) -> None:
    found = verify_files(
        repository_dir, manifest, depth=verify, cache_dir=cache_dir, reporter=reporter
    )
    lines = [
        *(f"{name} was changed" for name in found.changed),
        *(f"{name} is missing" for name in found.missing),
        *(f"{name} was added" for name in found.added if _is_served(name)),
    ]
    if lines:
        rest = len(lines) - _SHOWN
        shown = [*lines[:_SHOWN], *([f"and {rest} more"] if rest > 0 else [])]
        what = f"{repository_dir} does not match its {MANIFEST_NAME}"
        raise CheckpointError(what, why="\n".join(shown), hint=hint)


def _is_served(name: str) -> bool:
    """Return whether it is or lies in a folder, which Triton treats as a model."""
    return "/" in name


def _require_machine(
    repository_dir: Path, manifest: Manifest, reporter: Reporter, hint: str
) -> None:
    match manifest.runtime:
        case "trtllm":
            _require_gpu(repository_dir, manifest, hint)
            _require_release(repository_dir, manifest, hint)
        case "llmapi":
            built, here = manifest.versions.get("tensorrt_llm"), _installed("tensorrt-llm")
            if _compare(here, built) != "same":
                reporter.warning(
                    f"{repository_dir} was made for TensorRT-LLM {built}, {here} is installed"
                )
        case "openvino":
            _require_openvino(repository_dir, manifest, reporter, hint)


def _require_gpu(repository_dir: Path, manifest: Manifest, hint: str) -> None:
    wanted = manifest.gpu_architecture
    if wanted is None:
        return
    from trtllm_forge.machine.gpu import detect_gpus

    # Without a GPU, Triton reports it, or another machine serves.
    others = [gpu for gpu in detect_gpus() if gpu.architecture != _plain(wanted)]
    if others:
        what = (
            f"the engine of {repository_dir} is for {wanted}, this machine has {_plain_gpu(others)}"
        )
        why = "a TensorRT engine runs only on the GPU architecture it was built for"
        raise PrerequisiteError(what, why=why, hint=hint)


def _require_release(repository_dir: Path, manifest: Manifest, hint: str) -> None:
    built, here = manifest.versions.get("tensorrt_llm"), _installed("tensorrt-llm")
    if _compare(here, built) != "same":
        what = (
            f"the engine of {repository_dir} is for TensorRT-LLM {built}, {here} is installed here"
        )
        why = "an engine loads only in the release that built it"
        raise PrerequisiteError(what, why=why, hint=hint)


def _require_openvino(
    repository_dir: Path, manifest: Manifest, reporter: Reporter, hint: str
) -> None:
    for package in _OPENVINO:
        built, here = manifest.versions.get(package), _installed(package)
        order = _compare(here, built)
        if order == "older":
            what = f"{repository_dir} was made with {package} {built}, {here} is installed here"
            why = "OpenVINO reads models of older releases, not of newer ones"
            raise PrerequisiteError(what, why=why, hint=hint)
        if order == "newer":
            reporter.warning(
                f"{repository_dir} was made with {package} {built} and is served with {here}; "
                "generated text may differ"
            )


def _compare(here: str | None, built: str | None) -> Literal["same", "older", "newer"]:
    """Compare an installed version with the built one; an unknown one counts as equal."""
    if not here or not built or here == built:
        return "same"
    from trtllm_forge.releases.catalogue import version_key

    if version_key(here) == version_key(built):
        return "same"
    return "older" if version_key(here) < version_key(built) else "newer"


def _plain(architecture: str) -> str:
    # sm_90a and sm_100f are the same chips as sm_90 and sm_100.
    return architecture.rstrip("af")


def _plain_gpu(gpus: list[Gpu]) -> str:
    return f"{gpus[0].name}, {gpus[0].architecture}"


def _installed(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
