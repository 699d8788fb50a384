"""The command line of ``tritonserver``: a pure function."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from trtllm_forge.triton.locate import TritonInstallation

DEFAULT_HOST = "127.0.0.1"


@dataclass(frozen=True, kw_only=True)
class Ports:
    """The three ports of one server."""

    http: int
    grpc: int
    metrics: int


def triton_argv(
    installation: TritonInstallation,
    *,
    repository_dir: Path,
    host: str,
    ports: Ports,
    shm_prefix: str,
    exit_timeout_s: int,
) -> tuple[str, ...]:
    """Return the command that serves ``repository_dir``.

    Configurations are taken as they are written (no auto-complete), which also saves a start
    of each Python model. ``shm_prefix`` has to differ between servers of one machine.
    """
    argv = [
        str(installation.executable),
        f"--model-repository={repository_dir}",
        f"--http-address={host}",
        f"--http-port={ports.http}",
        f"--grpc-address={host}",
        f"--grpc-port={ports.grpc}",
        f"--metrics-address={host}",
        f"--metrics-port={ports.metrics}",
        "--disable-auto-complete-config",
        f"--backend-config=python,shm-region-prefix-name={shm_prefix}",
        f"--exit-timeout-secs={exit_timeout_s}",
        "--log-format=ISO8601",
    ]
    if installation.backend_dir is not None:
        argv.append(f"--backend-directory={installation.backend_dir}")
    if installation.origin == "wheel":
        # It is there for machines without a GPU, where asking for one is a warning per start.
        argv.append("--allow-gpu-metrics=false")
    return tuple(argv)
