"""What serving starts, as a value: pure functions from a request to a ``LaunchPlan``.

Nothing here starts, writes or removes anything; ``running_server`` does what a plan says, and
``forge serve --dry-run`` prints it.
"""

from __future__ import annotations

import glob
import math
import re
import shlex
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from trtllm_forge.machine.process.lifeline import CONTAINER_PREFIX
from trtllm_forge.serving.plan.control_key import KEY_WORD, key_path
from trtllm_forge.serving.plan.place import served_place, tls_mounts
from trtllm_forge.triton.client.address import ServerUrls
from trtllm_forge.triton.launch.argv import Ports, TritonStart, triton_argv
from trtllm_forge.triton.launch.container import Container, container_name, stamp_label
from trtllm_forge.triton.launch.mpi import (
    Placement,
    launcher_env,
    mpirun_argv,
    srun_argv,
    srun_files,
)
from trtllm_forge.triton.launch.shared_memory import shm_bytes
from trtllm_forge.triton.repository.plain_path import is_plain

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from trtllm_forge.serving.plan.place import ServedPlace
    from trtllm_forge.serving.plan.request import ServeRequest
    from trtllm_forge.triton.launch.locate import TritonInstallation
    from trtllm_forge.triton.launch.mpi import LauncherKind
    from trtllm_forge.triton.launch.rank_layout import RankLayout

DOCUMENT_SCHEMA = 1
# Only the twin's engine model has it.
_TWIN_FILES = "*/*/engine_worker.py"
# The share of the ready timeout within which the ranks have to meet.
_MEETING_SHARE = 0.75
_STAMP = re.compile(r"[0-9A-Za-z_]+")


@dataclass(frozen=True, kw_only=True)
class LaunchPlan:
    """One server that could be started.

    Attributes:
        name: The name by which ``probe`` and ``complete`` find it.
        repository_dir: What it serves.
        urls: Where it answers.
        http_port: The port of ``urls.http``, which distinguishes it from other servers.
        front_models: The models that have to be ready.
        ready_timeout_s: How long they may take.
        rank_argvs: The ``tritonserver`` command of each rank.
        argv: The command to start: rank 0's, or a launcher's with those of all ranks.
        launcher: The launcher, or None.
        env: Variables to set on top of forge's own environment.
        log_path: Its log.
        state_dir: The folder of its record while it runs.
        links: Links to make before it starts, each with what it leads to.
        texts: Files to write before it starts.
        stamp: The unique word in the names of its leftovers.
        leftovers: Patterns of what to remove after it; they match nothing of other servers.
        shares_cores: Whether the engine, the twin's, computes on the same cores as Triton.
        drain_timeout_s: How long running requests may take to end when it is stopped.
        is_detached: Whether its record outlives it.
        command: The command that serves the same again.
        control_key: The key; ``argv`` and ``texts`` hold its placeholder, see ``control_key``.
        container: The container that ``argv`` starts Triton in, if any.
    """

    name: str
    repository_dir: Path
    urls: ServerUrls
    http_port: int
    front_models: tuple[str, ...]
    ready_timeout_s: float
    rank_argvs: tuple[tuple[str, ...], ...]
    argv: tuple[str, ...]
    launcher: LauncherKind | None
    env: Mapping[str, str]
    log_path: Path
    state_dir: Path
    links: Mapping[Path, Path]
    texts: Mapping[Path, str]
    stamp: str
    leftovers: tuple[str, ...]
    shares_cores: bool
    drain_timeout_s: float
    is_detached: bool
    command: str
    control_key: str = field(repr=False)
    container: Container | None

    @property
    def rank_env(self) -> Mapping[str, str]:
        """Return the variables that forge sets for each rank."""
        return self.env if self.container is None else self.container.env

    def text(self) -> str:
        """Return the plan as ``--dry-run`` prints it."""
        ranks = len(self.rank_argvs)
        variables = " ".join(f"{name}={shlex.quote(text)}" for name, text in self.env.items())
        return (
            f"would serve {self.name} with {ranks} rank{'' if ranks == 1 else 's'}\n"
            f"  http     {self.urls.http}\n"
            f"  grpc     {self.urls.grpc}\n"
            f"  metrics  {self.urls.metrics}\n"
            f"  waits for {', '.join(self.front_models)}\n"
            f"  $ {variables} {shlex.join(self.argv)}"
        )

    def document(self) -> dict[str, object]:
        """Return the same for ``--json``."""
        return {
            "schema": DOCUMENT_SCHEMA,
            "name": self.name,
            "repository": str(self.repository_dir),
            "http": self.urls.http,
            "grpc": self.urls.grpc,
            "metrics": self.urls.metrics,
            "front_models": list(self.front_models),
            "argv": list(self.argv),
            "ranks": [
                {"rank": rank, "argv": list(argv), "env": dict(self.rank_env)}
                for rank, argv in enumerate(self.rank_argvs)
            ],
            "container": None if self.container is None else self.container.document(),
            "env": dict(self.env),
            "leftovers": list(self.leftovers),
            "shares_cores": self.shares_cores,
        }


@dataclass(frozen=True, kw_only=True)
class ServerStart:
    """What is unique to one start of a server.

    Attributes:
        name: The server's name.
        stamp: A word that no other start on this machine has, of letters, digits and ``_``.
        state_dir: Folder of the records of running servers.
        ports: The ports to take.
        control_key: The key of its restricted APIs.
        ready_timeout_s: How long its front models may take to be ready.
    """

    name: str
    stamp: str
    state_dir: Path
    ports: Ports
    control_key: str
    ready_timeout_s: float

    @property
    def run_dir(self) -> Path:
        """Return this start's own folder."""
        return _run_dir(self.state_dir, self.stamp)


def plan_launch(request: ServeRequest, start: ServerStart) -> LaunchPlan:
    """Return the plan that serves a request.

    Raises:
        ServerError: An engine is neither where its configuration says nor in the repository.
    """
    options, layout = request.options, request.layout
    completes = any(map(completes_config, options.folders))
    place = served_place(
        options.repositories,
        request.installation,
        options.section.host,
        start.run_dir,
        is_mirrored=layout.world_size == 1 and layout.mode != "orchestrator",
        completes_config=completes,
    )
    rank_argvs = _rank_argvs(request, start, place, completes_config=completes)
    env = _environment(place.installation, layout, start)
    argv, texts = rank_argvs[0], dict(place.texts)
    if request.launcher is not None:
        env |= launcher_env(place.scratch_dir, is_local=options.hostfile is None)
        argv, files = _launched(request, start, rank_argvs, tuple(env))
        texts |= files
    container = None
    if request.container is not None:
        container = _container(request, start, place, env, argv)
        argv, env = container.argv(), {}
    return LaunchPlan(
        name=start.name,
        repository_dir=options.repository_dir,
        urls=_urls(request, start),
        http_port=start.ports.http,
        front_models=place.fronts,
        ready_timeout_s=start.ready_timeout_s,
        rank_argvs=rank_argvs,
        argv=argv,
        launcher=None if request.launcher is None else request.launcher.kind,
        env=env,
        log_path=start.state_dir / "logs" / f"{start.name}-{start.stamp}.log",
        state_dir=start.state_dir,
        links=place.links,
        texts=texts,
        stamp=start.stamp,
        leftovers=leftovers(start.state_dir, start.stamp, in_container=container is not None),
        shares_cores=any(path for folder in options.folders for path in folder.glob(_TWIN_FILES)),
        drain_timeout_s=options.section.drain_timeout_s,
        is_detached=options.is_detached,
        command=_again(request),
        control_key=start.control_key,
        container=container,
    )


def _rank_argvs(
    request: ServeRequest, start: ServerStart, place: ServedPlace, *, completes_config: bool
) -> tuple[tuple[str, ...], ...]:
    triton = TritonStart(
        installation=place.installation,
        repository_dir=place.repository_dir,
        host=place.host,
        ports=start.ports,
        shm_prefix=_shm_prefix(start.stamp),
        control_key=KEY_WORD,
        # On a TERM that does not come from forge, Triton drains by itself.
        exit_timeout_s=math.ceil(request.options.section.drain_timeout_s),
        layout=request.layout,
        completes_config=completes_config,
        gpu_count=request.gpu_count,
        grpc_tls=request.grpc_tls,
    )
    return tuple(triton_argv(triton, rank) for rank in range(request.layout.world_size))


def _launched(
    request: ServeRequest,
    start: ServerStart,
    rank_argvs: Sequence[tuple[str, ...]],
    exported: tuple[str, ...],
) -> tuple[tuple[str, ...], Mapping[Path, str]]:
    """Return the launcher's command with those of all ranks, and the files it reads."""
    assert request.launcher is not None
    placement = Placement(
        hostfile=request.options.hostfile,
        oversubscribe=request.options.section.oversubscribe or request.layout.is_topology_only,
        exported=exported,
    )
    if request.launcher.kind == "srun":
        argv = srun_argv(request.launcher, len(rank_argvs), start.run_dir, placement)
        return argv, srun_files(rank_argvs, start.run_dir)
    return mpirun_argv(request.launcher, rank_argvs, placement), {}


def _container(
    request: ServeRequest,
    start: ServerStart,
    place: ServedPlace,
    env: Mapping[str, str],
    inner_argv: tuple[str, ...],
) -> Container:
    assert request.container is not None
    certificates = () if request.grpc_tls is None else tls_mounts(request.grpc_tls)
    return Container(
        options=request.container,
        name=container_name(start.name, start.stamp),
        server=start.name,
        stamp=start.stamp,
        ports=start.ports,
        shm_bytes=shm_bytes(request.options.repository_dir, request.layout),
        mounts=(*place.mounts, *certificates),
        env=env,
        inner_argv=inner_argv,
    )


def _again(request: ServeRequest) -> str:
    """Return the command that serves the same again."""
    section = request.options.section
    command = request.command
    if section.world_size is not None:
        command = f"{command} --world-size {section.world_size}"
    if section.triton != "auto":
        command = f"{command} --triton {shlex.quote(section.triton)}"
    return command


def _environment(
    installation: TritonInstallation, layout: RankLayout, start: ServerStart
) -> dict[str, str]:
    # In any locale: paths and prompts may be in any language.
    env = {**installation.env, "PYTHONUTF8": "1"}
    if layout.mode == "orchestrator":
        env["TRTLLM_ORCHESTRATOR"] = "1"
        env["TRTLLM_ORCHESTRATOR_SPAWN_PROCESSES"] = "1" if layout.spawns else "0"
    if layout.is_topology_only and layout.needs_launcher:
        env["FORGE_RENDEZVOUS"] = start.stamp
        # Rank 0 reports the missing ranks and must time out before forge, which only sees it wait.
        env["FORGE_RENDEZVOUS_DEADLINE_S"] = f"{start.ready_timeout_s * _MEETING_SHARE:g}"
    return env


def completes_config(repository_dir: Path) -> bool:
    """Return whether an LLM API model takes parts of its configuration from model.yaml."""
    return any(
        "def auto_complete_config" in model_path.read_text(encoding="utf-8", errors="replace")
        for path in repository_dir.glob("*/[0-9]*/model.yaml")
        if (model_path := path.with_name("model.py")).is_file()
    )


def leftovers(state_dir: Path, stamp: str, *, in_container: bool = False) -> tuple[str, ...]:
    """Return patterns that match only the leftovers of a stamp's server.

    The container comes first: while it runs, it uses the others.
    """
    if not _STAMP.fullmatch(stamp):
        return ()
    run_dir = _run_dir(state_dir, stamp)
    own = (run_dir, key_path(state_dir, stamp))
    containers = (f"{CONTAINER_PREFIX}{stamp_label(stamp)}",) if in_container else ()
    files = (glob.escape(str(path)) for path in own)
    return (*containers, f"/dev/shm/{_shm_prefix(stamp)}*", *files)


def view_dir(state_dir: Path, stamp: str) -> Path:
    """Return the mirror folder of a stamp's Triton."""
    return _run_dir(state_dir, stamp) / "repository"


def _shm_prefix(stamp: str) -> str:
    return f"forge_{stamp}_"


def _run_dir(state_dir: Path, stamp: str) -> Path:
    run_dir = state_dir / "run" / stamp
    return run_dir if is_plain(run_dir) else Path(tempfile.gettempdir()) / f"forge-{stamp}"


def _urls(request: ServeRequest, start: ServerStart) -> ServerUrls:
    # A server on every address can be reached on loopback.
    host = request.options.section.host
    reached = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    shown = f"[{reached}]" if ":" in reached else reached
    return ServerUrls(
        http=f"http://{shown}:{start.ports.http}",
        grpc=f"{shown}:{start.ports.grpc}",
        metrics=f"http://{shown}:{start.ports.metrics}/metrics",
        key_path=key_path(start.state_dir, start.stamp),
        grpc_trust=request.grpc_trust,
    )
