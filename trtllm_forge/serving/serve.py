"""Serves a model repository: checks it, plans what to start, and starts it."""

from __future__ import annotations

import os
import shlex
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from trtllm_forge.errors import PrerequisiteError
from trtllm_forge.serving.launch_plan import ServeOptions, plan_launch, serve_command
from trtllm_forge.serving.ports import choose_ports
from trtllm_forge.serving.running_server import RunningServer, run_plan
from trtllm_forge.serving.state import free_server_name, start_lock
from trtllm_forge.serving.trust import require_trusted
from trtllm_forge.triton.locate import TritonInstallation, locate_triton
from trtllm_forge.triton.mount import CPP_BACKEND, cpp_models

if TYPE_CHECKING:
    from collections.abc import Iterator

    from trtllm_forge.reporter import Reporter
    from trtllm_forge.serving.launch_plan import LaunchPlan
    from trtllm_forge.settings import Settings


def start_server(options: ServeOptions, settings: Settings, reporter: Reporter) -> RunningServer:
    """Start Triton on a repository and return it once its front model is ready.

    Raises:
        PrerequisiteError: There is no Triton here, or not one that can run this repository.
        CheckpointError: The repository is not what its manifest says.
        ServerError: A port is taken, a model does not load, or it takes too long.
        ConfigError: One port is wanted twice.
    """
    command = serve_command(options.repository_dir, settings.model_repos_dir)
    installation = _checked_installation(options, settings, reporter)
    with (
        _writing(settings.state_dir, "FORGE_STATE_DIR", command),
        start_lock(settings.state_dir, reporter),
    ):
        plan = _planned(options, settings, reporter, installation)
        return run_plan(plan, options.ready_timeout_s, reporter)


def plan_server(options: ServeOptions, settings: Settings, reporter: Reporter) -> LaunchPlan:
    """Return what ``start_server`` would start now, having checked what it checks.

    Raises:
        PrerequisiteError: See ``start_server``, as for the others.
        CheckpointError: See there.
        ServerError: See there.
        ConfigError: See there.
    """
    installation = _checked_installation(options, settings, reporter)
    return _planned(options, settings, reporter, installation)


def _checked_installation(
    options: ServeOptions, settings: Settings, reporter: Reporter
) -> TritonInstallation:
    """Return the Triton to start, which can run this repository, which is what it says it is."""
    command = serve_command(options.repository_dir, settings.model_repos_dir)
    _check_world_size(options, command)
    require_trusted(
        options.repository_dir,
        options.verify,
        cache_dir=settings.cache_dir,
        reporter=reporter,
        command=command,
    )
    with _writing(settings.cache_dir, "FORGE_CACHE_DIR", command):
        installation = locate_triton(settings.cache_dir)
    _check_backends(options.repository_dir, installation)
    return installation


def _planned(
    options: ServeOptions, settings: Settings, reporter: Reporter, installation: TritonInstallation
) -> LaunchPlan:
    command = serve_command(options.repository_dir, settings.model_repos_dir)
    wanted = {
        "http": options.http_port,
        "grpc": options.grpc_port,
        "metrics": options.metrics_port,
    }
    return plan_launch(
        options,
        installation,
        choose_ports(options.host, wanted, command, reporter),
        name=free_server_name(settings.state_dir, options.repository_dir.name),
        state_dir=settings.state_dir,
        stamp=f"{os.getpid()}_{time.time_ns()}",
        command=command,
    )


@contextmanager
def _writing(folder: Path, variable: str, command: str) -> Iterator[None]:
    """Say of a folder of forge's that it cannot be written, and how to have another."""
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


def _check_world_size(options: ServeOptions, command: str) -> None:
    if options.world_size > 1:
        what = f"--world-size {options.world_size} is wanted, this release serves 1 rank"
        why = "serving an engine of several ranks is not in this release"
        raise PrerequisiteError(what, why=why, hint=f"{command} --world-size 1")


def _check_backends(repository_dir: Path, installation: TritonInstallation) -> None:
    if installation.origin != "wheel":
        return
    for model in cpp_models(repository_dir):
        what = f"model {model} needs Triton's {CPP_BACKEND} backend, which is not here"
        why = (
            f"{installation.label} has the python backend alone, and "
            f"{repository_dir / model / 'config.pbtxt'} names backend {CPP_BACKEND}; "
            "NGC's tritonserver images for TensorRT-LLM have it"
        )
        raise PrerequisiteError(what, why=why)
