"""What serving starts, as a value: pure functions from options to a ``LaunchPlan``.

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
    Launcher,
    LauncherKind,
    Placement,
    launcher_env,
    mpirun_argv,
    srun_argv,
    srun_files,
)
from trtllm_forge.triton.launch.rank_layout import RankLayout
from trtllm_forge.triton.launch.shared_memory import shm_bytes
from trtllm_forge.triton.repository.plain_path import is_plain

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from trtllm_forge.serving.plan.options import ServeOptions
    from trtllm_forge.serving.plan.repositories import NamedRepository
    from trtllm_forge.triton.client.tls import GrpcTls, GrpcTrust
    from trtllm_forge.triton.launch.container import ContainerOptions
    from trtllm_forge.triton.launch.locate import TritonInstallation

DOCUMENT_SCHEMA = 1
# The twin's engine model has it, and no other.
_TWIN_FILES = "*/*/engine_worker.py"
# Of the time until the server has to be ready: how long its ranks may take to meet.
_MEETING_SHARE = 0.75
_STAMP = re.compile(r"[0-9A-Za-z_]+")


@dataclass(frozen=True, kw_only=True)
class LaunchPlan:
    """One server that could be started.

    Attributes:
        name: By which ``probe`` and ``complete`` find it.
        repository_dir: What it serves.
        urls: Where it answers.
        http_port: The port of ``urls.http``, by which the server is told from another's.
        front_models: The models that have to be ready.
        ready_timeout_s: How long they may take.
        rank_argvs: The ``tritonserver`` command of each rank.
        argv: The one command that is started: rank 0's, or a launcher's with all of them.
        launcher: What that launcher is, or None.
        env: Variables to set on top of forge's own environment.
        log_path: What it writes goes there.
        state_dir: Where its record is while it runs.
        links: Links to make before it starts, each with what it leads to.
        texts: Files to write before it starts.
        stamp: The word that is in the names of its leftovers.
        leftovers: Patterns of what is removed after it, and of nobody else's.
        shares_cores: The engine computes on the same cores as Triton: it is the twin's.
        drain_timeout_s: How long running requests may take to end when it is stopped.
        is_detached: Whether its record outlives it.
        command: What serves the same again.
        control_key: The key that stands in ``argv`` and ``texts`` as a word; see ``control_key``.
        container: What Triton runs in, where ``argv`` starts one.
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
    links: Mapping[Path, Path] = field(default_factory=dict)
    texts: Mapping[Path, str] = field(default_factory=dict)
    stamp: str = ""
    leftovers: tuple[str, ...] = ()
    shares_cores: bool = False
    drain_timeout_s: float = 30.0
    is_detached: bool = False
    command: str = "forge serve"
    control_key: str = field(default="", repr=False)
    container: Container | None = None

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


def plan_launch(
    options: ServeOptions,
    installation: TritonInstallation,
    ports: Ports,
    *,
    name: str,
    state_dir: Path,
    stamp: str,
    control_key: str,
    log_path: Path,
    ready_timeout_s: float,
    command: str,
    layout: RankLayout | None = None,
    launcher: Launcher | None = None,
    gpu_count: int = 0,
    grpc_tls: GrpcTls | None = None,
    grpc_trust: GrpcTrust | None = None,
    container_options: ContainerOptions | None = None,
) -> LaunchPlan:
    """Return what has to be started to serve ``options``.

    Args:
        options: What to serve and where.
        installation: The Triton to start.
        ports: The ports to take.
        name: The server's name.
        state_dir: Where forge keeps what runs.
        stamp: A word that no other server on this machine has, of letters, digits and ``_``.
        control_key: What its restricted APIs will ask for.
        log_path: What it writes goes there.
        ready_timeout_s: How long its front models may take to be ready.
        command: What serves the same again.
        layout: The ranks, where there are several.
        launcher: What starts them.
        gpu_count: GPUs of this machine, for an orchestrator.
        grpc_tls: The files of its gRPC service.
        grpc_trust: What forge's own gRPC clients hold it to.
        container_options: What the container gets, where Triton runs in one.

    Raises:
        ServerError: An engine is neither where its configuration says nor in the repository.
    """
    layout = layout or RankLayout()
    run_dir = _run_dir(state_dir, stamp)
    completes = any(map(completes_config, options.folders))
    place = served_place(
        options.repository_dir,
        installation,
        options.host,
        run_dir,
        others=options.repositories,
        is_mirrored=layout.world_size == 1 and layout.mode != "orchestrator",
        completes_config=completes,
    )
    installation, texts = place.installation, dict(place.texts)
    start = TritonStart(
        installation=installation,
        repository_dir=place.repository_dir,
        host=place.host,
        ports=ports,
        shm_prefix=_shm_prefix(stamp),
        control_key=KEY_WORD,
        # Where the drain cannot be ours, on a TERM from elsewhere, it is Triton's.
        exit_timeout_s=math.ceil(options.drain_timeout_s),
        layout=layout,
        completes_config=completes,
        gpu_count=gpu_count,
        grpc_tls=grpc_tls,
    )
    rank_argvs = tuple(triton_argv(start, rank) for rank in range(layout.world_size))
    env = _environment(installation, layout, stamp, ready_timeout_s)
    argv = rank_argvs[0]
    if launcher is not None:
        env |= launcher_env(place.scratch_dir, is_local=options.hostfile is None)
        placement = Placement(
            hostfile=options.hostfile,
            oversubscribe=options.oversubscribe or layout.is_topology_only,
            exported=tuple(env),
        )
        if launcher.kind == "srun":
            texts |= srun_files(rank_argvs, run_dir)
            argv = srun_argv(launcher, layout.world_size, run_dir, placement)
        else:
            argv = mpirun_argv(launcher, rank_argvs, placement)
    container = None
    if container_options is not None:
        container = Container(
            options=container_options,
            name=container_name(name, stamp),
            server=name,
            stamp=stamp,
            ports=ports,
            shm_bytes=shm_bytes(options.repository_dir, layout),
            mounts=(*place.mounts, *(() if grpc_tls is None else tls_mounts(grpc_tls))),
            env=env,
            inner_argv=argv,
        )
        argv, env = container.argv(), {}
    return LaunchPlan(
        name=name,
        repository_dir=options.repository_dir,
        urls=_urls(options.host, ports, key_path(state_dir, stamp), grpc_trust),
        http_port=ports.http,
        front_models=place.fronts,
        ready_timeout_s=ready_timeout_s,
        rank_argvs=rank_argvs,
        argv=argv,
        launcher=None if launcher is None else launcher.kind,
        env=env,
        log_path=log_path,
        state_dir=state_dir,
        links=place.links,
        texts=texts,
        stamp=stamp,
        leftovers=leftovers(state_dir, stamp, in_container=container is not None),
        shares_cores=any(path for folder in options.folders for path in folder.glob(_TWIN_FILES)),
        drain_timeout_s=options.drain_timeout_s,
        is_detached=options.is_detached,
        command=command,
        control_key=control_key,
        container=container,
    )


def _environment(
    installation: TritonInstallation, layout: RankLayout, stamp: str, ready_timeout_s: float
) -> dict[str, str]:
    # Whatever the locale: a path or a prompt of any language has to pass.
    env = {**installation.env, "PYTHONUTF8": "1"}
    if layout.mode == "orchestrator":
        env["TRTLLM_ORCHESTRATOR"] = "1"
        env["TRTLLM_ORCHESTRATOR_SPAWN_PROCESSES"] = "1" if layout.spawns else "0"
    if layout.is_topology_only and layout.needs_launcher:
        env["FORGE_RENDEZVOUS"] = stamp
        # Rank 0 says who is missing, and has to come before forge, which only sees it wait.
        env["FORGE_RENDEZVOUS_DEADLINE_S"] = f"{ready_timeout_s * _MEETING_SHARE:g}"
    return env


def completes_config(repository_dir: Path) -> bool:
    """Return whether a model of the LLM API takes parts of its configuration from model.yaml."""
    return any(
        "def auto_complete_config" in model_path.read_text(encoding="utf-8", errors="replace")
        for path in repository_dir.glob("*/[0-9]*/model.yaml")
        if (model_path := path.with_name("model.py")).is_file()
    )


def leftovers(state_dir: Path, stamp: str, *, in_container: bool = False) -> tuple[str, ...]:
    """Return patterns of what the server of a stamp may leave, and no other's.

    A container goes first: as long as it runs, it uses the others.
    """
    if not _STAMP.fullmatch(stamp):
        return ()
    run_dir = _run_dir(state_dir, stamp)
    own = (run_dir, key_path(state_dir, stamp))
    containers = (f"{CONTAINER_PREFIX}{stamp_label(stamp)}",) if in_container else ()
    files = (glob.escape(str(path)) for path in own)
    return (*containers, f"/dev/shm/{_shm_prefix(stamp)}*", *files)


def view_dir(state_dir: Path, stamp: str) -> Path:
    """Return the folder from which the Triton of a stamp loads, where it is a mirror."""
    return _run_dir(state_dir, stamp) / "repository"


def _shm_prefix(stamp: str) -> str:
    return f"forge_{stamp}_"


def _run_dir(state_dir: Path, stamp: str) -> Path:
    run_dir = state_dir / "run" / stamp
    return run_dir if is_plain(run_dir) else Path(tempfile.gettempdir()) / f"forge-{stamp}"


def serve_command(
    repository_dir: Path, model_repos_dir: Path, repositories: Sequence[NamedRepository] = ()
) -> str:
    """Return the command that serves this repository, or these, from this folder."""
    names = []
    for folder, name in [(one.folder, one.name) for one in repositories] or [
        (repository_dir, repository_dir.name)
    ]:
        is_built = folder.parent.resolve() == model_repos_dir.resolve()
        named = folder.name if is_built else str(folder)
        names.append(shlex.quote(named if name == folder.name else f"{name}={named}"))
    return f"forge serve {' '.join(names)}"


def _urls(
    host: str, ports: Ports, control_key_path: Path, grpc_trust: GrpcTrust | None
) -> ServerUrls:
    # A server on every address is reached on this machine's own.
    reached = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    shown = f"[{reached}]" if ":" in reached else reached
    return ServerUrls(
        http=f"http://{shown}:{ports.http}",
        grpc=f"{shown}:{ports.grpc}",
        metrics=f"http://{shown}:{ports.metrics}/metrics",
        key_path=control_key_path,
        grpc_trust=grpc_trust,
    )
