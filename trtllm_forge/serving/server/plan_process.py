"""Turns a plan into files and a process that is not started yet."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from trtllm_forge.files.private import make_private, write_private
from trtllm_forge.machine.process.managed import ManagedProcess
from trtllm_forge.machine.process.secrets import environment_without_secrets
from trtllm_forge.serving.plan.control_key import put_into_command
from trtllm_forge.serving.records.record import record_path
from trtllm_forge.triton.launch.mpi import split_rank

if TYPE_CHECKING:
    from trtllm_forge.reporter import Reporter
    from trtllm_forge.serving.plan.launch_plan import LaunchPlan

_GRACE_S = 10.0


def managed_process(plan: LaunchPlan, reporter: Reporter) -> ManagedProcess:
    """Return the process of a plan."""
    return ManagedProcess(
        plan.argv,
        source="triton",
        log_path=plan.log_path,
        reporter=reporter,
        env={**environment_without_secrets(), **plan.env},
        grace_s=_GRACE_S,
        leftovers=plan.leftovers,
        # A detached server's record stays, to show that its owner was killed.
        record_path=None if plan.is_detached else record_path(plan.state_dir, plan.name),
        shares_cores=plan.shares_cores,
        split_rank=None if plan.launcher is None else partial(split_rank, plan.launcher),
        secrets=put_into_command(plan.control_key),
    )


def make_files(plan: LaunchPlan) -> None:
    """Write the files that the process needs before it starts."""
    make_private(plan.log_path.parent)
    plan.log_path.touch()
    if plan.urls.key_path is not None:
        write_private(plan.urls.key_path, f"{plan.control_key}\n")
    for path, target in plan.links.items():
        make_private(path.parent)
        path.symlink_to(target)
    for path, text in plan.texts.items():
        # A launcher may be given its ranks' commands in a file.
        for word, secret in put_into_command(plan.control_key).items():
            text = text.replace(word, secret)
        write_private(path, text)
