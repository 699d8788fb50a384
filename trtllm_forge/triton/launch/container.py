"""The ``docker run`` that starts Triton in a container: a pure function.

::

    docker run --rm --init --pull never --name forge-serve-<server>-<stamp>
        --label trtllm-forge=serve-<server> --label trtllm-forge.stamp=<stamp>
        [--gpus "device=<index>,..."] --shm-size <bytes> --ulimit memlock=-1 --ulimit stack=67108864
        --security-opt no-new-privileges [--user <uid>:<gid>]
        --publish 127.0.0.1:<port>:<port> (three times)
        --mount type=bind,source=<repository>,target=/models,readonly ...
        --workdir /tmp --env <name>=<value> ... <image> <what runs inside>

Inside, Triton listens on every address of the container, which has its own network. Only the
published ports can be reached from this machine, and nothing from other machines unless
``--host`` allows it. No variable of forge's environment goes in, so no token does either. The
image's entrypoint stays: it prints a banner and then becomes the command.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from trtllm_forge.machine.process.docker import (
    LABEL_KEY,
    LIMITS,
    container_environment,
    mount_option,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from trtllm_forge.machine.process.docker import Mount
    from trtllm_forge.triton.launch.argv import Ports

STAMP_LABEL = f"{LABEL_KEY}.stamp"
"""The label that identifies the container of one start."""

ANY_ADDRESS = "0.0.0.0"
SCRATCH_DIR = Path("/tmp")
"""Folder of the ranks' own files in a container, removed with it."""

_NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9_.-]+")


@dataclass(frozen=True, kw_only=True)
class ContainerOptions:
    """The container options that depend on this machine.

    Attributes:
        image: The image, which must be on this machine.
        gpus: The value of ``--gpus``, or None for no GPU.
        gpu_count: The number of those GPUs.
        user: ``<uid>:<gid>``, or None for the image's own, which is root.
        address: The address of this machine to publish its ports on.
    """

    image: str
    gpus: str | None
    gpu_count: int
    user: str | None
    address: str


@dataclass(frozen=True, kw_only=True)
class Container:
    """The container of one server.

    Attributes:
        options: The options that depend on this machine.
        name: Its name in docker.
        server: The server's name in forge.
        stamp: The unique word of this start.
        ports: Its ports, inside and outside.
        shm_bytes: The size of its ``/dev/shm``.
        mounts: The folders and files of this machine that it sees.
        env: Its variables.
        inner_argv: The command that runs in it.
    """

    options: ContainerOptions
    name: str
    server: str
    stamp: str
    ports: Ports
    shm_bytes: int
    mounts: Sequence[Mount]
    env: Mapping[str, str]
    inner_argv: tuple[str, ...]

    def document(self) -> dict[str, object]:
        """Return the document for ``--dry-run --json``."""
        return {
            "image": self.options.image,
            "name": self.name,
            "gpus": self.options.gpus,
            "user": self.options.user,
            "shm_bytes": self.shm_bytes,
            "inner_argv": list(self.inner_argv),
        }

    def argv(self) -> tuple[str, ...]:
        """Return the command that runs it."""
        options = self.options
        argv = ["docker", "run", "--rm", "--init", "--pull", "never", "--name", self.name]
        argv += ["--label", f"{LABEL_KEY}=serve-{_plain(self.server)}"]
        argv += ["--label", stamp_label(self.stamp)]
        if options.gpus is not None:
            argv += ["--gpus", options.gpus]
        argv += ["--shm-size", str(self.shm_bytes), *LIMITS]
        argv += ["--security-opt", "no-new-privileges"]
        if options.user is not None:
            argv += ["--user", options.user]
        host = f"[{options.address}]" if ":" in options.address else options.address
        for port in (self.ports.http, self.ports.grpc, self.ports.metrics):
            argv += ["--publish", f"{host}:{port}:{port}"]
        for mount in dict.fromkeys(self.mounts):
            argv += ["--mount", mount_option(mount)]
        argv += ["--workdir", str(SCRATCH_DIR)]
        for name, value in container_environment(self.env, needs_network=True).items():
            argv += ["--env", f"{name}={value}"]
        return (*argv, options.image, *self.inner_argv)


def container_name(server: str, stamp: str) -> str:
    """Return the unique container name of a start."""
    return f"forge-serve-{_plain(server)}-{stamp}"


def stamp_label(stamp: str) -> str:
    """Return the label by which the container of a start is found."""
    return f"{STAMP_LABEL}={stamp}"


def _plain(name: str) -> str:
    return _NOT_IN_NAMES.sub("-", name)
