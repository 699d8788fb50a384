"""Where a stage's commands run: on this machine, or in the image of the release.

An executor wraps the commands that a runtime composes and says beforehand what it lacks. What is
run, and with which arguments, is the runtime's business.
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
        """Return the word the executor is known by."""

    def wrap(
        self,
        command: Command,
        *,
        mounts: Sequence[Mount],
        needs_gpu: bool,
        needs_network: bool = False,
        label: str,
    ) -> Command:
        """Return what is executed for ``command``, whose own argv stays as ``inner_argv``.

        Pure, so that a plan shows what a build runs. ``label`` is letters, digits, ``_``, ``.``
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
        """End what a command of this label has left running; never raises.

        For before a command, as forge may have been killed during the last one, and after one
        that failed or was interrupted.
        """
