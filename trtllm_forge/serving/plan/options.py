"""The options of ``forge serve``."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from trtllm_forge.config.schema import ServeSection
from trtllm_forge.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from trtllm_forge.serving.plan.repositories import NamedRepository
    from trtllm_forge.triton.client.tls import GrpcTls


@dataclass(frozen=True, kw_only=True)
class ServeOptions:
    """What to serve, and how.

    Attributes:
        repositories: The model repositories, at least one.
        section: The options that ``forge.yaml`` can set too.
        name: The server's name; None derives it from the repositories.
        is_detached: Whether its owner runs in the background, and its record outlives it.
        releases_file: Describes releases and images that are newer than this forge.
    """

    repositories: tuple[NamedRepository, ...]
    section: ServeSection = field(default_factory=ServeSection)
    name: str | None = None
    is_detached: bool = False
    releases_file: str | None = None

    @property
    def folders(self) -> tuple[Path, ...]:
        """Return the folder of each repository."""
        return tuple(repository.folder for repository in self.repositories)

    @property
    def repository_dir(self) -> Path:
        """Return the one repository, or the first of several."""
        return self.repositories[0].folder

    @property
    def hostfile(self) -> Path | None:
        """Return the hostfile of the ranks, or None for this host only."""
        hostfile = self.section.hostfile
        return None if hostfile is None else Path(hostfile).absolute()

    @property
    def max_restarts(self) -> int:
        """Return how many restarts in a row are allowed."""
        return self.section.max_restarts if self.section.restart == "on-failure" else 0

    @property
    def grpc_tls(self) -> GrpcTls | None:
        """Return the files of a gRPC service with TLS.

        Raises:
            ConfigError: One of them is missing.
        """
        section = self.section
        if section.grpc_tls_cert is None:
            return None
        from trtllm_forge.triton.client.tls import (
            grpc_tls,
        )  # slow to import, and few servers have TLS

        return grpc_tls(section.grpc_tls_cert, section.grpc_tls_key, section.grpc_tls_ca)


def without_verify(flags: Mapping[str, object]) -> Mapping[str, object]:
    """Return flags with ``--no-verify`` translated to its value of ``--verify``.

    Raises:
        ConfigError: ``--verify`` is given as well.
    """
    if "verify" in flags:
        what = f"--verify {flags['verify']} and --no-verify conflict"
        raise ConfigError(what, hint="forge serve --no-verify")
    return {**flags, "verify": "off"}
