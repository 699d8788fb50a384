"""Decides what to serve before anything is started: which Triton, on which ranks."""

from __future__ import annotations

import shlex
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from trtllm_forge.errors import ConfigError, PrerequisiteError
from trtllm_forge.machine.gpu import detect_gpus
from trtllm_forge.serving.plan.command import serve_command
from trtllm_forge.serving.plan.ranks import choose_launcher, choose_ranks
from trtllm_forge.serving.plan.source import choose_source, named_triton
from trtllm_forge.serving.plan.trust import require_trusted
from trtllm_forge.triton.launch.locate import (
    TritonInstallation,
    container_installation,
    image_installation,
    locate_triton,
)
from trtllm_forge.triton.launch.mpi import Launcher
from trtllm_forge.triton.repository.mount import CPP_BACKEND, cpp_models

if TYPE_CHECKING:
    from collections.abc import Iterator

    from trtllm_forge.config.settings import Settings
    from trtllm_forge.reporter import Reporter
    from trtllm_forge.serving.plan.options import ServeOptions
    from trtllm_forge.serving.plan.source import TritonSource
    from trtllm_forge.triton.client.tls import GrpcTls, GrpcTrust
    from trtllm_forge.triton.launch.container import ContainerOptions
    from trtllm_forge.triton.launch.rank_layout import RankLayout


@dataclass(frozen=True, kw_only=True)
class ServeRequest:
    """What to serve, and with what.

    Attributes:
        options: The options of ``forge serve``.
        command: The command that serves the same repositories, for hints.
        layout: The ranks.
        installation: The Triton.
        container: The options of its container, if it runs in one.
        launcher: The launcher of several ranks, if needed.
        gpu_count: Number of GPUs an orchestrator can give to its ranks.
        grpc_tls: The files of its gRPC service.
        grpc_trust: How forge's own gRPC clients verify it.
    """

    options: ServeOptions
    command: str
    layout: RankLayout
    installation: TritonInstallation
    container: ContainerOptions | None = None
    launcher: Launcher | None = None
    gpu_count: int = 0
    grpc_tls: GrpcTls | None = None
    grpc_trust: GrpcTrust | None = None


def make_request(
    options: ServeOptions, settings: Settings, reporter: Reporter, *, is_dry_run: bool = False
) -> ServeRequest:
    """Return what to serve, after verifying the repositories.

    Args:
        options: The options of ``forge serve``.
        settings: The folders of forge.
        reporter: Gets the choices as notes.
        is_dry_run: Only plan. TensorRT engines can then be planned on a machine that cannot run
            them: an NGC image's Triton and any ``mpirun`` stand in for what is missing.

    Raises:
        PrerequisiteError: No Triton here can run the repositories.
        CheckpointError: A repository does not match its manifest, or an engine is incomplete.
        ConfigError: Options contradict each other or the repositories.
    """
    command = serve_command(options.repositories, settings.model_repos_dir)
    layout = choose_ranks(options, command)
    source = choose_source(options.section.triton, options.repository_dir, reporter)
    in_container = source.kind == "docker"
    _require_fitting(options, settings, command, in_container=in_container)
    for folder in options.folders:
        require_trusted(
            folder,
            options.section.verify,
            cache_dir=settings.cache_dir,
            reporter=reporter,
            command=command,
            in_container=in_container,
        )
    container = None
    if in_container:
        # Imported where needed, to keep the start fast.
        from trtllm_forge.serving.plan.container_options import choose_container

        container = choose_container(
            source, options, reporter, command, layout=layout, is_plan=is_dry_run
        )
        installation = container_installation(container.image)
    else:
        with writing(settings.cache_dir, "FORGE_CACHE_DIR", command):
            installation = _installation(source, settings)
    if is_dry_run and installation.origin == "wheel" and any(map(cpp_models, options.folders)):
        reporter.note(f"this plan is for an NGC image: {installation.label} is not on this machine")
        installation = image_installation()
    for repository in options.repositories:
        own = serve_command((repository,), settings.model_repos_dir)
        _require_backends(repository.folder, installation, own)
    if len(options.folders) > 1:
        from trtllm_forge.serving.plan.memory_shares import require_shares

        require_shares(options.folders)
    tls = options.grpc_tls
    return ServeRequest(
        options=options,
        command=command,
        layout=layout,
        installation=installation,
        container=container,
        launcher=_launcher(options, layout, container, reporter, is_dry_run=is_dry_run),
        gpu_count=_gpu_count(container) if layout.spawns else 0,
        grpc_tls=tls,
        grpc_trust=_trust(tls),
    )


@contextmanager
def writing(folder: Path, variable: str, command: str) -> Iterator[None]:
    """Turn the OSError of an unwritable forge folder into an error with a hint.

    Args:
        folder: The folder.
        variable: The environment variable that selects another folder.
        command: The command to run again.

    Raises:
        PrerequisiteError: It cannot be written.
    """
    try:
        yield
    except OSError as error:
        failed = Path(str(error.filename or folder))
        if not (failed.is_relative_to(folder) or folder.is_relative_to(failed)):
            raise
        what = f"{folder} cannot be written"
        spare = Path(tempfile.gettempdir()) / f"forge-{variable.split('_')[1].lower()}"
        hint = f"{variable}={shlex.quote(str(spare))} {command}"
        raise PrerequisiteError(what, why=f"{failed}: {error.strerror}", hint=hint) from error


def _require_fitting(
    options: ServeOptions, settings: Settings, command: str, *, in_container: bool
) -> None:
    gpus, triton = options.section.gpus, options.section.triton
    if gpus is not None and not in_container:
        what = f"--gpus {gpus} is given, but Triton does not run in a container"
        chosen = "" if gpus == "all" else f"CUDA_VISIBLE_DEVICES={shlex.quote(gpus)} "
        raise ConfigError(
            what, why="--gpus names the GPUs of a container", hint=f"{chosen}{command}"
        )
    if in_container and len(options.folders) > 1:
        what = f"{len(options.folders)} repositories are given, but a container serves only one"
        why = f"Triton would run in docker (--triton {triton})"
        alone = serve_command(options.repositories[:1], settings.model_repos_dir)
        raise ConfigError(what, why=why, hint=alone)


def _installation(source: TritonSource, settings: Settings) -> TritonInstallation:
    if source.kind == "auto":
        return locate_triton(settings.cache_dir)
    return named_triton(source, settings.cache_dir)


def _require_backends(repository_dir: Path, installation: TritonInstallation, command: str) -> None:
    if installation.origin != "wheel":
        return
    for model in cpp_models(repository_dir):
        what = f"model {model} needs Triton's {CPP_BACKEND} backend, which is not installed"
        why = (
            f"{installation.label} has only the python backend, and "
            f"{repository_dir / model / 'config.pbtxt'} names backend {CPP_BACKEND}; "
            "NGC's tritonserver images for TensorRT-LLM have it"
        )
        raise PrerequisiteError(what, why=why, hint=f"{command} --triton docker")


def _launcher(
    options: ServeOptions,
    layout: RankLayout,
    container: ContainerOptions | None,
    reporter: Reporter,
    *,
    is_dry_run: bool,
) -> Launcher | None:
    """Return the launcher of several ranks; in a container the image's own ``mpirun``."""
    if not layout.needs_launcher:
        return None
    if container is not None:
        return Launcher(kind="mpirun", executable=Path("mpirun"), label="the image's mpirun")
    try:
        return choose_launcher(options)
    except PrerequisiteError as error:
        if not is_dry_run:
            raise
        reporter.note(f"this plan assumes an mpirun: {error.what}")
        return Launcher(kind="mpirun", executable=Path("mpirun"), label="mpirun")


def _trust(tls: GrpcTls | None) -> GrpcTrust | None:
    if tls is None:
        return None
    from trtllm_forge.triton.client.tls_check import check_tls

    return check_tls(tls)


def _gpu_count(container: ContainerOptions | None) -> int:
    return len(detect_gpus()) if container is None else container.gpu_count
