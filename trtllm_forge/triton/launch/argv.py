"""The command line of ``tritonserver``, for each rank: pure functions.

The options stand in the order in which upstream's launcher writes them, and then those that it
does not; what differs and why is listed and held in the contract tests.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from trtllm_forge.triton.client.address import CONTROL_HEADER
from trtllm_forge.triton.launch.rank_layout import RankLayout

if TYPE_CHECKING:
    from pathlib import Path

    from trtllm_forge.triton.client.tls import GrpcTls
    from trtllm_forge.triton.launch.locate import TritonInstallation

DEFAULT_HOST = "127.0.0.1"
LLMAPI_LAUNCH = "trtllm-llmapi-launch"

RESTRICTED_APIS = ("model-repository", "shared-memory", "trace", "logging")
"""What asks for the key, by Triton's own words: all that changes the server for everybody."""


@dataclass(frozen=True, kw_only=True)
class Ports:
    """The three ports of one server."""

    http: int
    grpc: int
    metrics: int


@dataclass(frozen=True, kw_only=True)
class TritonStart:
    """What the servers of one repository are started with.

    Attributes:
        installation: The Triton.
        repository_dir: The folder it is given.
        host: The address rank 0 listens on.
        ports: Its ports.
        shm_prefix: How the names of its shared memory begin, which has to differ between
            servers of one machine; the rank follows.
        control_key: What the restricted APIs ask for. forge unloads models with it, so that
            running requests end: on TERM, Triton 2.51 refuses the inner steps of an ensemble.
        exit_timeout_s: How long it may take to end.
        layout: The ranks.
        completes_config: Whether models may complete their own configuration. Where all is
            written, not asking them saves a start of each Python model.
        gpu_count: GPUs that an orchestrator, which has none of its own, has to leave alone.
        grpc_tls: The files with which its gRPC is encrypted.
    """

    installation: TritonInstallation
    repository_dir: Path
    host: str
    ports: Ports
    shm_prefix: str
    control_key: str
    exit_timeout_s: int
    layout: RankLayout = field(default_factory=RankLayout)
    completes_config: bool = False
    gpu_count: int = 0
    grpc_tls: GrpcTls | None = None


def triton_argv(start: TritonStart, rank: int = 0) -> tuple[str, ...]:
    """Return the command of one rank."""
    installation, layout = start.installation, start.layout
    shm_prefix = f"{start.shm_prefix}{rank}_" if layout.needs_launcher else start.shm_prefix
    argv = [
        *((LLMAPI_LAUNCH,) if layout.is_llmapi else ()),
        str(installation.executable),
        f"--model-repository={start.repository_dir}",
        f"--exit-timeout-secs={start.exit_timeout_s}",
        *(_ports(start.ports) if rank == 0 else _engines_alone(layout)),
        *_pools(start),
        *(() if start.completes_config else ("--disable-auto-complete-config",)),
        f"--backend-config=python,shm-region-prefix-name={shm_prefix}",
        *((*_addresses(start.host), *_control(start)) if rank == 0 else _NO_ENDPOINTS),
        *(start.grpc_tls.argv() if start.grpc_tls is not None and rank == 0 else ()),
        "--log-format=ISO8601",
    ]
    if installation.backend_dir is not None:
        argv.append(f"--backend-directory={installation.backend_dir}")
    if installation.origin == "wheel":
        # It is there for machines without a GPU, where asking for one is a warning per start.
        argv.append("--allow-gpu-metrics=false")
    return tuple(argv)


# Ranks above 0 answer nobody. They would open their endpoints only when rank 0 has left.
_NO_ENDPOINTS = ("--allow-http=false", "--allow-grpc=false", "--allow-metrics=false")


def _ports(ports: Ports) -> tuple[str, ...]:
    return (
        f"--grpc-port={ports.grpc}",
        f"--http-port={ports.http}",
        f"--metrics-port={ports.metrics}",
    )


def _addresses(host: str) -> tuple[str, ...]:
    # Its HTTP library and its gRPC library take an IPv6 address each in a form of its own.
    grpc, http = (f"[{host}]", f"ipv6:{host}") if ":" in host else (host, host)
    return (
        f"--grpc-address={grpc}",
        f"--http-address={http}",
        f"--metrics-address={http}",
    )


def _control(start: TritonStart) -> tuple[str, ...]:
    """Load all models, and restrict what changes the server to who has the key."""
    # A colon before the header's name; the help of Triton 2.51 has a comma there.
    restricted = f"{','.join(RESTRICTED_APIS)}:{CONTROL_HEADER}={start.control_key}"
    return (
        "--model-control-mode=explicit",
        "--load-model=*",
        f"--http-restricted-api={restricted}",
        f"--grpc-restricted-protocol={restricted}",
    )


def _engines_alone(layout: RankLayout) -> tuple[str, ...]:
    return (
        "--model-control-mode=explicit",
        *(f"--load-model={model}" for model in layout.engine_models),
    )


def _pools(start: TritonStart) -> tuple[str, ...]:
    """Keep Triton from memory of GPUs that belong to the ranks it will start."""
    if not start.layout.spawns:
        return ()
    return (
        "--pinned-memory-pool-byte-size=0",
        "--enable-peer-access=false",
        *(f"--cuda-memory-pool-byte-size={gpu}:0" for gpu in range(start.gpu_count)),
    )
