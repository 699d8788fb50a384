"""Serves a model repository: checks it, plans what to start, and starts it."""

from __future__ import annotations

import glob
import os
import re
import secrets
import shlex
import tempfile
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from trtllm_forge.errors import ConfigError, PrerequisiteError
from trtllm_forge.machine.gpu import detect_gpus
from trtllm_forge.serving.plan.exposure import exposure_warning
from trtllm_forge.serving.plan.launch_plan import plan_launch, serve_command
from trtllm_forge.serving.plan.memory_shares import require_shares
from trtllm_forge.serving.plan.ports import choose_ports
from trtllm_forge.serving.plan.ranks import choose_launcher, choose_ranks
from trtllm_forge.serving.plan.source import choose_source, named_triton
from trtllm_forge.serving.plan.trust import require_trusted
from trtllm_forge.serving.records.find import free_server_name, running_servers, state_lock
from trtllm_forge.serving.records.record import read_record, record_path, write_record
from trtllm_forge.serving.records.stop import end_orphan
from trtllm_forge.serving.server.readiness import default_ready_timeout_s
from trtllm_forge.serving.server.running_server import RunningServer, planned_record, run_plan
from trtllm_forge.triton.client.tls import check_tls, grpc_tls
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
    from trtllm_forge.serving.plan.launch_plan import LaunchPlan
    from trtllm_forge.serving.plan.options import ServeOptions
    from trtllm_forge.triton.launch.container import ContainerOptions
    from trtllm_forge.triton.launch.rank_layout import RankLayout

_KEPT_LOGS = 5
"""Logs of a server that are kept: this start's and those of the four before."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_STAMPED = re.compile(r"-\d+_(?P<start>\d+)(?:\.rank\d+)?\.log")


def start_server(options: ServeOptions, settings: Settings, reporter: Reporter) -> RunningServer:
    """Start Triton on a repository and return it once its front model is ready.

    Raises:
        PrerequisiteError: There is no Triton here, or not one that can run this repository.
        CheckpointError: The repository is not what its manifest says.
        ServerError: A port is taken, a model does not load, or it takes too long.
        ConfigError: One port is wanted twice.
    """
    command = serve_command(options.repository_dir, settings.model_repos_dir, options.repositories)
    layout = choose_ranks(options, command)
    found = _checked_installation(options, settings, reporter, layout)
    is_alone = len(options.folders) == 1
    for folder in options.folders:
        own = command if is_alone else serve_command(folder, settings.model_repos_dir)
        _check_backends(folder, found.installation, own)
    if len(options.folders) > 1:
        require_shares(options.folders)
    launcher = _launcher(options, layout, found)
    with _writing(settings.state_dir, "FORGE_STATE_DIR", command):
        # Triton takes its ports only after it has loaded. Until then the record holds them.
        with state_lock(settings.state_dir):
            name = _server_name(options, settings)
            _clear_up(name, settings.state_dir)
            plan = _planned(options, settings, reporter, found, layout, launcher)
            write_record(settings.state_dir, planned_record(plan))
        return run_plan(plan, reporter)


def plan_server(options: ServeOptions, settings: Settings, reporter: Reporter) -> LaunchPlan:
    """Return what ``start_server`` would start now, having checked what it checks.

    A plan for TensorRT engines can be made where nothing runs them: an NGC image's Triton and
    any ``mpirun`` stand in for those that are not here.

    Raises:
        PrerequisiteError: See ``start_server``, as for the others.
        CheckpointError: See there.
        ServerError: See there.
        ConfigError: See there.
    """
    command = serve_command(options.repository_dir, settings.model_repos_dir, options.repositories)
    layout = choose_ranks(options, command)
    found = _checked_installation(options, settings, reporter, layout, is_plan=True)
    installation = found.installation
    if installation.origin == "wheel" and any(map(cpp_models, options.folders)):
        found = FoundTriton(installation=image_installation())
        reporter.note(f"this plan is for an NGC image: {found.installation.label} is not here")
    try:
        launcher = _launcher(options, layout, found)
    except PrerequisiteError as error:
        reporter.note(f"this plan takes any mpirun: {error.what}")
        launcher = Launcher(kind="mpirun", executable=Path("mpirun"), label="mpirun")
    return _planned(options, settings, reporter, found, layout, launcher)


@dataclass(frozen=True, kw_only=True)
class FoundTriton:
    """The Triton that serves, and what its container gets where it runs in one."""

    installation: TritonInstallation
    container: ContainerOptions | None = None


def _checked_installation(
    options: ServeOptions,
    settings: Settings,
    reporter: Reporter,
    layout: RankLayout,
    *,
    is_plan: bool = False,
) -> FoundTriton:
    """Return the Triton to take, for a repository that is what it says it is."""
    command = serve_command(options.repository_dir, settings.model_repos_dir, options.repositories)
    source = choose_source(options.triton, options.repository_dir, reporter)
    in_container = source.kind == "docker"
    if options.gpus is not None and not in_container:
        what = f"--gpus {options.gpus} is given, and Triton runs in no container"
        chosen = f"CUDA_VISIBLE_DEVICES={shlex.quote(options.gpus)} "
        hint = f"{'' if options.gpus == 'all' else chosen}{command}"
        raise ConfigError(what, why="it says what a container gets", hint=hint)
    if in_container and len(options.folders) > 1:
        what = f"{len(options.folders)} repositories are given, and a container has one"
        hint = serve_command(options.repository_dir, settings.model_repos_dir)
        raise ConfigError(
            what, why=f"Triton would run in docker (--triton {options.triton})", hint=hint
        )
    for folder in options.folders:
        require_trusted(
            folder,
            options.verify,
            cache_dir=settings.cache_dir,
            reporter=reporter,
            command=command,
            in_container=in_container,
        )
    if in_container:
        # Imported where it is needed: what starts is to be up as soon as Triton itself is.
        from trtllm_forge.serving.plan.container_options import choose_container

        container = choose_container(
            source, options, reporter, command, layout=layout, is_plan=is_plan
        )
        installation = container_installation(container.image)
        return FoundTriton(installation=installation, container=container)
    with _writing(settings.cache_dir, "FORGE_CACHE_DIR", command):
        if source.kind == "auto":
            return FoundTriton(installation=locate_triton(settings.cache_dir))
        return FoundTriton(installation=named_triton(source, settings.cache_dir))


def _launcher(options: ServeOptions, layout: RankLayout, found: FoundTriton) -> Launcher | None:
    """Return what starts several ranks: in a container it is the image's own ``mpirun``."""
    if found.container is None:
        return choose_launcher(options, layout)
    if not layout.needs_launcher:
        return None
    return Launcher(kind="mpirun", executable=Path("mpirun"), label="the image's mpirun")


def _planned(
    options: ServeOptions,
    settings: Settings,
    reporter: Reporter,
    found: FoundTriton,
    layout: RankLayout,
    launcher: Launcher | None,
) -> LaunchPlan:
    command = serve_command(options.repository_dir, settings.model_repos_dir, options.repositories)
    if options.world_size is not None:
        command = f"{command} --world-size {options.world_size}"
    if options.triton != "auto":
        command = f"{command} --triton {shlex.quote(options.triton)}"
    running = running_servers(settings.state_dir)
    name = _server_name(options, settings)
    before = read_record(record_path(settings.state_dir, name))
    ready_timeout_s = options.ready_timeout_s
    if ready_timeout_s is None:
        ready_timeout_s, why = default_ready_timeout_s(*options.folders)
        reporter.decision(why)
    stamp = f"{os.getpid()}_{time.time_ns()}"
    tls = grpc_tls(options.grpc_tls_cert, options.grpc_tls_key, options.grpc_tls_ca)
    trust = None if tls is None else check_tls(tls)
    ports = choose_ports(
        options.host,
        {
            "http": options.http_port,
            "grpc": options.grpc_port,
            "metrics": options.metrics_port,
        },
        command,
        reporter,
        remembered=before.ports() if before else None,
        holders={
            port: f"the server {record.name} is on it, which is {record.state}"
            for record in running
            for port in record.ports().values()
        },
    )
    if warning := exposure_warning(options.host, ports, tls):
        reporter.warning(warning)
    return plan_launch(
        options,
        found.installation,
        ports,
        name=name,
        state_dir=settings.state_dir,
        stamp=stamp,
        control_key=secrets.token_hex(16),
        log_path=settings.state_dir / "logs" / f"{name}-{stamp}.log",
        ready_timeout_s=ready_timeout_s,
        command=command,
        layout=layout,
        launcher=launcher,
        gpu_count=_gpu_count(found) if layout.spawns else 0,
        container_options=found.container,
        grpc_tls=tls,
        grpc_trust=trust,
    )


def _gpu_count(found: FoundTriton) -> int:
    return len(detect_gpus()) if found.container is None else found.container.gpu_count


def _server_name(options: ServeOptions, settings: Settings) -> str:
    name = options.name
    if name is not None and not _NAME.fullmatch(name):
        what = f"{name!r} is no name for a server"
        raise ConfigError(what, why="wanted: letters, digits, dots and dashes")
    if name is None:
        names = [one.name for one in options.repositories] or [options.repository_dir.name]
        return free_server_name(settings.state_dir, "-".join(names))
    running = running_servers(settings.state_dir)
    taken = next((record for record in running if record.name == name), None)
    if taken is not None:
        what = f"a server named {name} is {taken.state} already"
        why = f"it serves {taken.repository_dir} at {taken.urls.http}"
        raise ConfigError(what, why=why, hint=f"forge stop {shlex.quote(name)}")
    return name


def _clear_up(name: str, state_dir: Path) -> None:
    """Remove what the server of that name left when its owner was killed, and its old logs."""
    before = read_record(record_path(state_dir, name))
    if before is not None:
        end_orphan(before, state_dir)
    starts: dict[str, list[Path]] = {}
    for path in (state_dir / "logs").glob(f"{glob.escape(name)}-*.log"):
        if match := _STAMPED.fullmatch(path.name[len(name) :]):
            starts.setdefault(match["start"], []).append(path)
    for start in sorted(starts, key=int)[: -(_KEPT_LOGS - 1)]:
        for path in starts[start]:
            path.unlink(missing_ok=True)


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


def _check_backends(repository_dir: Path, installation: TritonInstallation, command: str) -> None:
    if installation.origin != "wheel":
        return
    for model in cpp_models(repository_dir):
        what = f"model {model} needs Triton's {CPP_BACKEND} backend, which is not here"
        why = (
            f"{installation.label} has the python backend alone, and "
            f"{repository_dir / model / 'config.pbtxt'} names backend {CPP_BACKEND}; "
            "NGC's tritonserver images for TensorRT-LLM have it"
        )
        raise PrerequisiteError(what, why=why, hint=f"{command} --triton docker")
