"""Serves model repositories: makes a plan, then runs it."""

from __future__ import annotations

import glob
import os
import re
import shlex
import time
from typing import TYPE_CHECKING

from trtllm_forge.errors import ConfigError
from trtllm_forge.serving.plan.exposure import exposure_warning
from trtllm_forge.serving.plan.launch_plan import LaunchPlan, ServerStart, plan_launch
from trtllm_forge.serving.plan.ports import choose_ports
from trtllm_forge.serving.plan.ready_timeout import default_ready_timeout_s
from trtllm_forge.serving.plan.request import ServeRequest, make_request, writing
from trtllm_forge.serving.records.find import free_server_name, running_servers, state_lock
from trtllm_forge.serving.records.record import read_record, record_path, write_record
from trtllm_forge.serving.records.stop import end_orphan
from trtllm_forge.serving.server.running_server import RunningServer, planned_record, run_plan

if TYPE_CHECKING:
    from pathlib import Path

    from trtllm_forge.config.settings import Settings
    from trtllm_forge.reporter import Reporter
    from trtllm_forge.serving.plan.options import ServeOptions

_KEPT_LOGS = 5
"""Number of logs kept per server: this start's and those of the four before."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_STAMPED = re.compile(r"-\d+_(?P<start>\d+)(?:\.rank\d+)?\.log")


def start_server(options: ServeOptions, settings: Settings, reporter: Reporter) -> RunningServer:
    """Start Triton on repositories and return the server once its front models are ready.

    Raises:
        PrerequisiteError: No Triton here can run the repositories.
        CheckpointError: A repository does not match its manifest.
        ServerError: A port is taken, a model does not load, or it takes too long.
        ConfigError: Options contradict each other or the repositories.
    """
    request = make_request(options, settings, reporter)
    with writing(settings.state_dir, "FORGE_STATE_DIR", request.command):
        # Triton binds its ports only after loading. Until then the record reserves them.
        with state_lock(settings.state_dir):
            name = _server_name(options, settings)
            _clear_up(name, settings.state_dir)
            plan = plan_launch(request, _choose_start(request, name, settings, reporter))
            write_record(settings.state_dir, planned_record(plan))
        return run_plan(plan, reporter)


def plan_server(options: ServeOptions, settings: Settings, reporter: Reporter) -> LaunchPlan:
    """Return what ``start_server`` would start now, after the same checks.

    Raises:
        ForgeError: As for ``start_server``, except for checks that planning does not need.
    """
    request = make_request(options, settings, reporter, is_dry_run=True)
    name = _server_name(options, settings)
    return plan_launch(request, _choose_start(request, name, settings, reporter))


def _choose_start(
    request: ServeRequest, name: str, settings: Settings, reporter: Reporter
) -> ServerStart:
    section = request.options.section
    ready_timeout_s = section.ready_timeout_s
    if ready_timeout_s is None:
        ready_timeout_s, why = default_ready_timeout_s(*request.options.folders)
        reporter.decision(why)
    before = read_record(record_path(settings.state_dir, name))
    ports = choose_ports(
        section.host,
        {"http": section.http_port, "grpc": section.grpc_port, "metrics": section.metrics_port},
        request.command,
        reporter,
        remembered=before.ports() if before else None,
        holders={
            port: f"the server {record.name} uses it and is {record.state}"
            for record in running_servers(settings.state_dir)
            for port in record.ports().values()
        },
    )
    if warning := exposure_warning(section.host, ports, request.grpc_tls):
        reporter.warning(warning)
    return ServerStart(
        name=name,
        stamp=f"{os.getpid()}_{time.time_ns()}",
        state_dir=settings.state_dir,
        ports=ports,
        control_key=os.urandom(16).hex(),
        ready_timeout_s=ready_timeout_s,
    )


def _server_name(options: ServeOptions, settings: Settings) -> str:
    name = options.name
    if name is not None and not _NAME.fullmatch(name):
        what = f"{name!r} is not a valid server name"
        raise ConfigError(what, why="expected: letters, digits, dots and dashes")
    if name is None:
        names = "-".join(repository.name for repository in options.repositories)
        return free_server_name(settings.state_dir, names)
    running = running_servers(settings.state_dir)
    taken = next((record for record in running if record.name == name), None)
    if taken is not None:
        what = f"a server named {name} is already {taken.state}"
        why = f"it serves {taken.repository_dir} at {taken.urls.http}"
        raise ConfigError(what, why=why, hint=f"forge stop {shlex.quote(name)}")
    return name


def _clear_up(name: str, state_dir: Path) -> None:
    """Remove the leftovers of a killed server of that name, and its old logs."""
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
