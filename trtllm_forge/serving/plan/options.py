"""What a server is asked for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from trtllm_forge.triton.launch.argv import DEFAULT_HOST

if TYPE_CHECKING:
    from pathlib import Path

    from trtllm_forge.serving.plan.repositories import NamedRepository
    from trtllm_forge.serving.plan.trust import Verify
    from trtllm_forge.triton.launch.mpi import LauncherKind
    from trtllm_forge.triton.launch.rank_layout import RankMode

Restart = Literal["never", "on-failure"]


@dataclass(frozen=True, kw_only=True)
class ServeOptions:
    """What to serve and where.

    Attributes:
        repository_dir: The model repository, absolute; of several the first.
        host: The address to listen on.
        http_port: A port, or None for 8000 or a free one; likewise the other two.
        grpc_port: See ``http_port``; 8001.
        metrics_port: See ``http_port``; 8002.
        name: The server's name; None takes the repository's.
        ready_timeout_s: How long the front model may take to be ready; None follows the size of
            what is loaded.
        drain_timeout_s: How long running requests may take to end when it is stopped.
        restart: Whether it is started again when it ends by itself.
        max_restarts: How often in a row.
        is_detached: Whether its owner runs by itself, and its record outlives it.
        world_size: Ranks of the engine, or None for what the engine says.
        mode: How several ranks work together, or None for what fits the engines.
        launcher: What starts several ranks, or None for what is here.
        hostfile: Lists the hosts for the ranks, or None for this one.
        oversubscribe: Whether there may be more ranks than cores.
        verify: How the repository is compared with its manifest first; see ``serving.trust``.
        grpc_tls_cert: The certificate of its gRPC service; None leaves that in plain text.
        grpc_tls_key: The certificate's key.
        grpc_tls_ca: The authorities of clients' certificates; None takes clients without one.
        triton: Where Triton comes from; see ``serving.triton_source``.
        gpus: What of the GPUs a container gets, or None for as many as its ranks need.
        releases_file: Describes releases and images that are newer than this forge.
        repositories: All of them with their names, ``repository_dir`` first; empty where there is
            one without a name of its own.
    """

    repository_dir: Path
    host: str = DEFAULT_HOST
    http_port: int | None = None
    grpc_port: int | None = None
    metrics_port: int | None = None
    name: str | None = None
    ready_timeout_s: float | None = None
    drain_timeout_s: float = 30.0
    restart: Restart = "never"
    max_restarts: int = 5
    is_detached: bool = False
    world_size: int | None = None
    mode: RankMode | None = None
    launcher: LauncherKind | None = None
    hostfile: Path | None = None
    oversubscribe: bool = False
    verify: Verify = "times"
    grpc_tls_cert: str | None = None
    grpc_tls_key: str | None = None
    grpc_tls_ca: str | None = None
    triton: str = "auto"
    gpus: str | None = None
    releases_file: str | None = None
    repositories: tuple[NamedRepository, ...] = ()

    @property
    def folders(self) -> tuple[Path, ...]:
        """Return the folder of each repository."""
        return tuple(one.folder for one in self.repositories) or (self.repository_dir,)
