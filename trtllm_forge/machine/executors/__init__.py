"""Where a stage's commands run: on this machine, or in the image of the release.

An executor wraps the commands that a runtime composes and checks in advance that they can run.
The runtime decides what is run and with which arguments.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from trtllm_forge.machine.process.command import Command
    from trtllm_forge.machine.process.docker import Mount
    from trtllm_forge.reporter import Reporter

ExecutorName = Literal["local", "docker"]


class Executor(Protocol):
    """What every executor offers."""

    @property
    def name(self) -> ExecutorName:
        """Return the executor's name."""

    def wrap(
        self,
        command: Command,
        *,
        mounts: Sequence[Mount],
        needs_gpu: bool,
        needs_network: bool = False,
        label: str,
    ) -> Command:
        """Return the command to execute for ``command``, keeping its own argv as ``inner_argv``.

        Pure, so that a plan can show what a build runs. ``label`` is letters, digits, ``_``, ``.``
        and ``-``, and belongs to one command at a time of one cache: a stage and its key.
        """

    def require(
        self, reporter: Reporter, *, confirm: Callable[[str], bool], needs_gpu: bool = True
    ) -> None:
        """Make sure that wrapped commands can run; ``confirm`` is asked before a download.

        Raises:
            PrerequisiteError: Something is missing, or the download was refused.
        """

    def clean_up(self, label: str, reporter: Reporter) -> None:
        """End whatever a command of this label left running; never raises.

        Call it before a command, because forge may have been killed during the last one, and
        after one that failed or was interrupted.
        """
