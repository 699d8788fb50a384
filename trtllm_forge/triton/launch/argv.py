"""The command line of ``tritonserver``, for each rank: pure functions.

The options of upstream's launcher come first, in its order, then forge's own; the contract tests
list every difference and its reason.
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
"""Triton's names of the APIs that need the key: all that affect every client."""


@dataclass(frozen=True, kw_only=True)
class Ports:
    """The three ports of one server."""

    http: int
    grpc: int
    metrics: int


@dataclass(frozen=True, kw_only=True)
class TritonStart:
    """The start options of a repository's servers.

    Attributes:
        installation: The Triton.
        repository_dir: Its model repository.
        host: The address rank 0 listens on.
        ports: Its ports.
        shm_prefix: Prefix of its shared memory names, followed by the rank; unique among the
            servers of a machine.
        control_key: The key of the restricted APIs. forge uses it to unload models, so that
            running requests finish: on TERM, Triton 2.51 refuses an ensemble's inner steps.
        exit_timeout_s: Triton's own exit timeout.
        layout: The ranks.
        completes_config: Whether models may complete their own configuration. If the files are
            complete, skipping this saves one start of each Python model.
        gpu_count: GPUs on which an orchestrator, which uses none itself, must not take memory.
        grpc_tls: The TLS files of its gRPC service.
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
        # For machines without a GPU, where requesting one logs a warning at each start.
        argv.append("--allow-gpu-metrics=false")
    return tuple(argv)


# Ranks above 0 serve no clients. They would open their endpoints only after rank 0 left.
_NO_ENDPOINTS = ("--allow-http=false", "--allow-grpc=false", "--allow-metrics=false")


def _ports(ports: Ports) -> tuple[str, ...]:
    return (
        f"--grpc-port={ports.grpc}",
        f"--http-port={ports.http}",
        f"--metrics-port={ports.metrics}",
    )


def _addresses(host: str) -> tuple[str, ...]:
    # Triton's HTTP and gRPC libraries expect IPv6 addresses in different forms.
    grpc, http = (f"[{host}]", f"ipv6:{host}") if ":" in host else (host, host)
    return (
        f"--grpc-address={grpc}",
        f"--http-address={http}",
        f"--metrics-address={http}",
    )


def _control(start: TritonStart) -> tuple[str, ...]:
    """Load all models, and restrict APIs that change the server to holders of the key."""
    # A colon comes before the header's name; the help of Triton 2.51 shows a comma.
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
    """Keep Triton from taking memory on GPUs of the ranks it will start."""
    if not start.layout.spawns:
        return ()
    return (
        "--pinned-memory-pool-byte-size=0",
        "--enable-peer-access=false",
        *(f"--cuda-memory-pool-byte-size={gpu}:0" for gpu in range(start.gpu_count)),
    )
