"""Paths and addresses as Triton sees them, on this machine or in a container."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from trtllm_forge.machine.process.docker import Mount
from trtllm_forge.serving.plan.view import front_model, served_view
from trtllm_forge.triton.launch.container import ANY_ADDRESS, SCRATCH_DIR
from trtllm_forge.triton.launch.container_folder import MODELS_DIR, container_folder
from trtllm_forge.triton.repository.plain_path import is_plain

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from trtllm_forge.serving.plan.repositories import NamedRepository
    from trtllm_forge.triton.client.tls import GrpcTls
    from trtllm_forge.triton.launch.locate import TritonInstallation

_SCRATCH = "mpi"


@dataclass(frozen=True, kw_only=True)
class ServedPlace:
    """What differs between a Triton on this machine and one in a container.

    Attributes:
        repository_dir: The folder Triton is given.
        host: The address it listens on.
        installation: The Triton.
        scratch_dir: Folder of the launcher's own files.
        links: Links to make first, each with its target.
        texts: Files to write first.
        mounts: The container's view of this machine.
        fronts: The model of each repository that clients ask.
    """

    repository_dir: Path
    host: str
    installation: TritonInstallation
    scratch_dir: Path
    links: Mapping[Path, Path] = field(default_factory=dict)
    texts: Mapping[Path, str] = field(default_factory=dict)
    mounts: tuple[Mount, ...] = ()
    fronts: tuple[str, ...] = ()


def served_place(
    repositories: Sequence[NamedRepository],
    installation: TritonInstallation,
    host: str,
    run_dir: Path,
    *,
    is_mirrored: bool,
    completes_config: bool,
) -> ServedPlace:
    """Return how a Triton serves repositories; files go below ``run_dir``.

    Args:
        repositories: See ``served_view``; a container has one.
        installation: The Triton.
        host: The address to listen on.
        run_dir: This start's own folder.
        is_mirrored: See ``served_view``.
        completes_config: See ``served_view``.

    Raises:
        ServerError: An engine is neither where its configuration says nor in the repository.
        PrerequisiteError: A container cannot follow a link of the repository.
    """
    if installation.origin == "docker":
        repository_dir = repositories[0].folder
        folder = container_folder(repository_dir, run_dir / "repository")
        return ServedPlace(
            repository_dir=MODELS_DIR,
            host=ANY_ADDRESS,
            installation=installation,
            scratch_dir=SCRATCH_DIR / _SCRATCH,
            texts=folder.texts,
            mounts=folder.mounts,
            fronts=(front_model(repository_dir),),
        )
    served = served_view(
        repositories,
        run_dir / "repository",
        is_mirrored=is_mirrored,
        completes_config=completes_config,
    )
    links = dict(served.links)
    if installation.backend_dir is not None and not is_plain(installation.backend_dir):
        linked_dir = run_dir / "backends"
        links[linked_dir] = installation.backend_dir.resolve()
        installation = replace(installation, backend_dir=linked_dir)
    return ServedPlace(
        repository_dir=served.path,
        host=host,
        installation=installation,
        scratch_dir=run_dir / _SCRATCH,
        links=links,
        texts=served.texts,
        fronts=served.fronts,
    )


def tls_mounts(tls: GrpcTls) -> tuple[Mount, ...]:
    """Return the mounts of the gRPC TLS files, at their own paths."""
    paths = (tls.cert_path, tls.key_path, tls.ca_path)
    return tuple(Mount(source=p, target=str(p), read_only=True) for p in paths if p is not None)
