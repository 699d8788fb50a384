"""Checks that docker can serve a repository here, and chooses image, GPUs and user."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import TYPE_CHECKING

from trtllm_forge.errors import ConfigError, PrerequisiteError, ServerError, reason_of
from trtllm_forge.machine.gpu import probe_gpus
from trtllm_forge.machine.process.docker import DockerClient, gpu_devices, gpu_request
from trtllm_forge.releases.catalogue import read_catalogue
from trtllm_forge.serving.plan.container_image import (
    candidate_images,
    known_image,
    no_image_error,
    require_release,
)
from trtllm_forge.serving.plan.engine_ranks import read_engine_ranks
from trtllm_forge.serving.plan.place import tls_mounts
from trtllm_forge.triton.launch.container import ContainerOptions
from trtllm_forge.triton.launch.container_folder import container_folder, readable_by_others

if TYPE_CHECKING:
    from trtllm_forge.releases.catalogue import Catalogue
    from trtllm_forge.reporter import Reporter
    from trtllm_forge.serving.plan.options import ServeOptions
    from trtllm_forge.serving.plan.source import TritonSource
    from trtllm_forge.triton.launch.rank_layout import RankLayout

_GPU_WORDS = "all, or indices or UUIDs separated by commas"
# NVIDIA's images have a user of this id, for Triton (triton-inference-server/server: build.py).
_IMAGE_USER = "1000:1000"


def choose_container(
    source: TritonSource,
    options: ServeOptions,
    reporter: Reporter,
    command: str,
    *,
    layout: RankLayout,
    is_plan: bool = False,
) -> ContainerOptions:
    """Return the image, the GPUs and the user of a repository's container.

    Args:
        source: The requested image, if any.
        options: What is served.
        reporter: Gets the choices as notes.
        command: The command that serves the repository, for hints.
        layout: Its ranks.
        is_plan: Only plan: docker, the image and the GPUs need not be on this machine.

    Raises:
        PrerequisiteError: Docker, the image, the release or the GPUs are missing or do not fit.
        ConfigError: An option does not work with a container.
    """
    _require_one_machine(options, command)
    catalogue = read_catalogue(options.releases_file)
    purpose = "--triton docker runs Triton in a container"
    client = None if is_plan else DockerClient(purpose=purpose)
    if client is not None:
        client.require_daemon(reporter)
    image = _image(source, options.repository_dir, catalogue, client, reporter, command)
    require_release(
        image,
        options.repository_dir,
        catalogue,
        client=client,
        reporter=reporter,
        command=command,
    )
    needed = gpus_needed(options.repository_dir, layout)
    gpus, count = choose_gpus(options.section.gpus, needed, command, reporter, is_plan=is_plan)
    if client is not None and gpus is not None:
        client.require_some_gpu_support(reporter)
    user = _user(options, reporter)
    return ContainerOptions(
        image=image, gpus=gpus, gpu_count=count, user=user, address=_address(options.section.host)
    )


def gpus_needed(repository_dir: Path, layout: RankLayout) -> int:
    """Return the number of GPUs the engines of a repository need together."""
    engines = read_engine_ranks(repository_dir)
    sizes = [engine.world_size for engine in engines if engine.kind != "twin"]
    share_ranks = layout.mode == "leader" and layout.world_size > 1
    return max(sizes, default=0) if share_ranks else sum(sizes)


def choose_gpus(
    wanted: str | None, needed: int, command: str, reporter: Reporter, *, is_plan: bool = False
) -> tuple[str | None, int]:
    """Return the value of ``docker run --gpus`` and its number of GPUs.

    Args:
        wanted: The value of ``--gpus``, or None for as many visible GPUs as needed.
        needed: Number of ranks that need a GPU.
        command: The command that serves the repository.
        reporter: Gets a note when a plan needs GPUs that are missing here.
        is_plan: Only plan: the GPUs may be missing.

    Raises:
        ConfigError: ``--gpus`` is malformed or names too few.
        PrerequisiteError: This machine has too few.
    """
    if wanted is not None:
        return _wanted_gpus(wanted, needed, command)
    if not needed:
        return None, 0
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None and "MIG-" in visible:
        slices = visible.split(",")[:needed]
        return gpu_request(",".join(slices)), len(slices)
    report = probe_gpus()
    found = [gpu.uuid or str(gpu.index) for gpu in report.gpus[:needed]]
    if len(found) < needed:
        what = f"{needed} GPU{'s are' if needed > 1 else ' is'} needed, {len(found)} visible"
        if is_plan:
            reporter.note(f"this plan is for GPUs that this machine does not have: {what}")
            return gpu_devices(list(map(str, range(needed)))), needed
        why = "; ".join(filter(None, ("each rank of an engine needs one", report.reason)))
        raise PrerequisiteError(what, why=why, hint="nvidia-smi")
    return gpu_devices(found), needed


def _wanted_gpus(wanted: str, needed: int, command: str) -> tuple[str, int]:
    if wanted == "all":
        return "all", max(needed, len(probe_gpus().gpus))
    given = [entry.strip() for entry in wanted.split(",")]
    request = gpu_request(wanted)
    if request is None or gpu_devices(given) != request or len(set(given)) < len(given):
        what = f"--gpus {wanted} names no GPUs"
        raise ConfigError(what, why=f"expected: {_GPU_WORDS}", hint=f"{command} --gpus all")
    if len(given) < needed:
        what = f"--gpus {wanted} names {len(given)} of the {needed} GPUs needed"
        raise ConfigError(
            what, why="each rank of an engine needs one", hint=f"{command} --gpus all"
        )
    return request, len(given)


def _image(
    source: TritonSource,
    repository_dir: Path,
    catalogue: Catalogue,
    client: DockerClient | None,
    reporter: Reporter,
    command: str,
) -> str:
    """Return the named image, else the first local one that carries the release."""
    candidates = (source.image,) if source.image else candidate_images(repository_dir, catalogue)
    if not candidates:
        raise no_image_error(repository_dir, command)
    if client is None:
        return candidates[0]
    for reference in candidates:
        if client.has_image(reference, reporter):
            if not source.image:
                reporter.decision(
                    f"using the image {reference}: it carries the release and is on this machine"
                )
            return reference
    reference = candidates[0]
    known = known_image(reference, catalogue)
    size = f"; the download is {known.size_gb:.1f} GB" if known else ""
    what = f"the image {reference} is not on this machine"
    why = f"forge serve does not pull images{size}"
    raise PrerequisiteError(what, why=why, hint=f"docker pull {reference}")


def _require_one_machine(options: ServeOptions, command: str) -> None:
    flag = "--hostfile" if options.hostfile else "--launcher srun"
    if options.hostfile is not None or options.section.launcher == "srun":
        what = f"{flag} does not work with a container, which is on one machine"
        why = "the image's own mpirun starts the ranks inside the container"
        raise ConfigError(what, why=why, hint=command)


def _address(host: str) -> str:
    """Return a host as the address that docker publishes on; docker takes no names."""
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as error:
        what = f"cannot listen on {host}"
        raise ServerError(what, why=reason_of(error)) from error
    return str(found[0][4][0])


def _user(options: ServeOptions, reporter: Reporter) -> str | None:
    """Return the container's user: the serving user, who can read what is mounted.

    For root it is the image's own user if that one can read everything.
    """
    if os.getuid() != 0:
        return f"{os.getuid()}:{os.getgid()}"
    folder = container_folder(options.repository_dir, Path("/"))
    tls = options.grpc_tls
    mounts = (*folder.mounts, *(() if tls is None else tls_mounts(tls)))
    if not folder.texts and readable_by_others(mounts):
        return _IMAGE_USER
    reporter.decision(
        "Triton runs as root in the container: other users cannot read the files it needs"
    )
    return None
