"""Watches a container through docker: whether it runs, and its Python models."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from trtllm_forge.errors import PrerequisiteError
from trtllm_forge.machine.process.docker import DockerClient
from trtllm_forge.reporter import SilentReporter
from trtllm_forge.serving.server.stub_watch import (
    STUB_COMMAND,
    UNKNOWN_ENDING,
    DeadStub,
    model_of_command,
)
from trtllm_forge.triton.launch.container import STAMP_LABEL

if TYPE_CHECKING:
    from collections.abc import Sequence

    from trtllm_forge.triton.launch.container import Container

_CLIENT = DockerClient(purpose="a server runs in a container", answer_wait_s=30.0)
LOOK_EACH_S = 5.0
"""Seconds between queries; each costs the docker client a few hundredths of one core."""


def is_container_running(container: Container) -> bool:
    """Return whether docker reports this start's container as running."""
    wanted = f'{{{{index .Config.Labels "{STAMP_LABEL}"}}}} {{{{.State.Running}}}}'
    answer = _ask("container", "inspect", "--format", wanted, container.name)
    return answer.split() == [container.stamp, "true"]


def container_leader(container: Container | None) -> int | None:
    """Return a container's leading process id on this machine, if it has one here.

    If docker runs in a virtual machine, the id is valid only there.
    """
    if container is None:
        return None
    answer = _ask("container", "inspect", "--format", "{{.State.Pid}}", container.name).strip()
    return int(answer) if answer.isdigit() and int(answer) > 1 else None


class ContainerWatch:
    """The stubs of the server in a container; see ``stub_watch`` for what one is.

    Docker lists its processes as ``ps`` does, even if they are not processes of this machine.
    """

    def __init__(self, container: Container) -> None:
        self._name = container.name
        self._models: dict[int, str] = {}
        self._suspects: frozenset[int] = frozenset()
        self._next = 0.0

    def look(self) -> DeadStub | None:
        """Return a stub found dead twice in a row; queries docker every few seconds."""
        now = time.monotonic()
        if now < self._next:
            return None
        self._next = now + LOOK_EACH_S
        lines = _ask("top", self._name, "-ewwo", "pid,stat,comm,args").splitlines()[1:]
        zombies = set()
        for pid, state, command, arguments in _processes(lines):
            if state.startswith("Z"):
                if command == STUB_COMMAND:
                    zombies.add(pid)
            elif pid not in self._models and (model := model_of_command(arguments)):
                self._models[pid] = model
        dead = sorted(self._suspects & zombies)
        self._suspects = frozenset(zombies)
        if not dead:
            return None
        model = self._models.get(dead[0], "")
        return DeadStub(pid=dead[0], model=model, ending=UNKNOWN_ENDING)


def _processes(lines: Sequence[str]) -> list[tuple[int, str, str, Sequence[str]]]:
    rows = [line.split() for line in lines]
    return [(int(r[0]), r[1], r[2], r[3:]) for r in rows if len(r) > 2 and r[0].isdigit()]


def _ask(*arguments: str) -> str:
    """Return docker's answer, or an empty text without one."""
    try:
        answer = _CLIENT.ask(("docker", *arguments), SilentReporter())
    except PrerequisiteError:
        return ""
    return answer.stdout
