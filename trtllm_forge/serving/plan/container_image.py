"""Chooses the image that serves a repository, and compares their releases.

An engine loads only in the TensorRT-LLM that built it, so both are compared before anything is
started. A known image's tag gives its release, under any registry; any other image is inspected:
images built on NVIDIA's inherit their variables and labels.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

from trtllm_forge.delivery.manifest import read_manifest
from trtllm_forge.errors import PrerequisiteError
from trtllm_forge.machine.process.docker import last_line
from trtllm_forge.releases.catalogue import version_key
from trtllm_forge.serving.plan.engine_ranks import json_object
from trtllm_forge.triton.repository.mount import cpp_models, engine_dir
from trtllm_forge.triton.repository.release import engine_release, recorded_release

if TYPE_CHECKING:
    from pathlib import Path

    from trtllm_forge.machine.process.docker import DockerClient
    from trtllm_forge.releases.catalogue import Catalogue, Image
    from trtllm_forge.reporter import Reporter
    from trtllm_forge.triton.repository.release import RecordedRelease

# An image may name the release itself; otherwise its Triton version identifies a known image.
_TRTLLM_VARIABLES = ("TRT_LLM_VERSION", "TRTLLM_VERSION", "TENSORRT_LLM_VERSION")
_TRITON_VARIABLE = "NVIDIA_TRITON_SERVER_VERSION"
_SERVER_LABEL = "com.nvidia.tritonserver.version"
_NVIDIAS = re.compile(r"(?:.*/)?nvidia/tritonserver:\d\d\.\d\d(?P<rest>-[\w.-]+)(?:@.*)?")


def wanted_release(repository_dir: Path) -> RecordedRelease | None:
    """Return the release that must serve a repository; None for any or an unknown one."""
    manifest = read_manifest(repository_dir)
    if manifest is not None and manifest.runtime == "openvino":
        return None
    folders = [
        engine_dir(config, repository_dir, model)
        for model, config in cpp_models(repository_dir).items()
    ]
    return recorded_release(
        recipe=manifest.recipe if manifest else {},
        engines=(
            engine_release(json_object(folder / "config.json"), json_object(folder / "engine.json"))
            for folder in folders
            if folder
        ),
    )


def candidate_images(repository_dir: Path, catalogue: Catalogue) -> tuple[str, ...]:
    """Return the images with a repository's release, the one it was built in first."""
    wanted = wanted_release(repository_dir)
    if wanted is None:
        return ()
    manifest = read_manifest(repository_dir)
    built_in = [manifest.image.reference] if manifest and manifest.image else []
    known = [
        image.reference
        for image in catalogue.images
        if _is_same(image.trtllm_version, wanted.version)
    ]
    return tuple(dict.fromkeys([*built_in, *known]))


def no_image_error(repository_dir: Path, command: str) -> PrerequisiteError:
    """Return the error for a repository without a known image."""
    wanted = wanted_release(repository_dir)
    if wanted is None:
        what = (
            f"{repository_dir} does not record its TensorRT-LLM release, so no image can be chosen"
        )
        why = "it has neither a manifest nor an engine whose config.json names the release"
    else:
        what = f"no image carries TensorRT-LLM {wanted.version}, which {repository_dir} needs"
        why = f"according to its {wanted.source}"
    return PrerequisiteError(what, why=why, hint=f"{command} --triton docker:IMAGE")


def known_image(reference: str, catalogue: Catalogue) -> Image | None:
    """Return the known image with this tag, under any registry."""
    own = _last_part(reference)
    return next((i for i in catalogue.images if _last_part(i.reference) == own), None)


def require_release(
    reference: str,
    repository_dir: Path,
    catalogue: Catalogue,
    *,
    client: DockerClient | None,
    reporter: Reporter,
    command: str,
) -> None:
    """Compare the release in an image with a repository's.

    Args:
        reference: The image.
        repository_dir: The repository.
        catalogue: The known images.
        client: The docker that inspects an unknown image; None to skip that.
        reporter: Gets a warning when the release cannot be found out.
        command: The command that serves the repository, without ``--triton``.

    Raises:
        PrerequisiteError: They differ, or the image has no TensorRT-LLM at all.
    """
    wanted = wanted_release(repository_dir)
    if wanted is None:
        return
    known = known_image(reference, catalogue)
    found = f"TensorRT-LLM {known.trtllm_version}" if known else _without_release(reference)
    if found is None and client is not None:
        found = _asked(reference, catalogue, client, reporter)
    if found is None:
        reporter.warning(
            f"cannot tell which TensorRT-LLM is in {reference}; {repository_dir} is for "
            f"{wanted.version}, and an engine loads only in its own release"
        )
    elif not _is_same(found.removeprefix("TensorRT-LLM "), wanted.version):
        what = (
            f"{repository_dir} is for TensorRT-LLM {wanted.version} (its {wanted.source}), "
            f"{reference} has {found}"
        )
        if not cpp_models(repository_dir):
            reporter.warning(what)
            return
        why = "an engine loads only in the release that built it"
        right = candidate_images(repository_dir, catalogue)
        hint = f"{command} --triton docker" if right else "forge versions"
        raise PrerequisiteError(what, why=why, hint=hint)


def _asked(
    reference: str, catalogue: Catalogue, client: DockerClient, reporter: Reporter
) -> str | None:
    """Return the release that a local image declares."""
    argv = ["docker", "image", "inspect", "--format", "{{json .Config}}", reference]
    answer = client.ask(argv, reporter)
    if answer.returncode != 0:
        what = f"docker cannot tell what is in {reference}"
        raise PrerequisiteError(what, why=last_line(answer))
    try:
        config = json.loads(answer.stdout) or {}
    except ValueError:
        config = {}
    variables = dict(one.partition("=")[::2] for one in config.get("Env") or ())
    version = next((variables[n] for n in _TRTLLM_VARIABLES if variables.get(n)), None)
    if version is not None:
        return f"TensorRT-LLM {version}"
    labels = config.get("Labels") or {}
    triton = {"triton": variables.get(_TRITON_VARIABLE), "server": labels.get(_SERVER_LABEL)}
    for image in catalogue.images:
        own = {"triton": image.triton_release, "server": image.versions.get("server")}
        if any(triton[name] and triton[name] == own[name] for name in own):
            return f"TensorRT-LLM {image.trtllm_version}"
    return None


def _without_release(reference: str) -> str | None:
    """Return what an NVIDIA image without TensorRT-LLM contains; None for any other image."""
    match = _NVIDIAS.fullmatch(reference)
    return "none" if match and not match["rest"].startswith("-trtllm") else None


def _is_same(one: str, other: str) -> bool:
    return version_key(one) == version_key(other)


def _last_part(reference: str) -> str:
    return reference.partition("@")[0].rpartition("/")[2]
