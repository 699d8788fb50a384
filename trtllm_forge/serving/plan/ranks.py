"""Decides the ranks that serve a repository, and their launcher."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from trtllm_forge.errors import ConfigError
from trtllm_forge.serving.plan.engine_ranks import read_engine_ranks
from trtllm_forge.triton.launch.mpi import Launcher, locate_launcher
from trtllm_forge.triton.launch.rank_layout import RankLayout, lay_out_ranks

if TYPE_CHECKING:
    from trtllm_forge.serving.plan.options import ServeOptions


def choose_ranks(options: ServeOptions, command: str) -> RankLayout:
    """Return the ranks that serve a repository.

    Raises:
        ConfigError: The flags contradict the engine, or each other.
        CheckpointError: An engine is incomplete.
    """
    engines = read_engine_ranks(options.repository_dir)
    if len(options.folders) > 1:
        _require_one_rank(options)
    layout = lay_out_ranks(
        engines, wanted=options.section.world_size, mode=options.section.mode, command=command
    )
    if options.hostfile is not None:
        if not options.hostfile.is_file():
            what = f"--hostfile {options.hostfile} is not a file"
            raise ConfigError(what)
        if layout.is_topology_only:
            what = "--hostfile does not work with the twin, whose ranks run on one machine"
            raise ConfigError(what, why="they share no work that another machine could do")
    return layout


def _require_one_rank(options: ServeOptions) -> None:
    """Raise if one of several repositories has an engine of several ranks."""
    for folder in options.folders:
        engines = read_engine_ranks(folder)
        ranks = max((engine.world_size for engine in engines), default=1)
        most = max(ranks, options.section.world_size or 1)
        if most > 1:
            count = len(options.folders)
            what = f"{folder.name} has {most} ranks and is one of {count} repositories"
            why = "each rank of an engine is a server of its own, with no other models"
            raise ConfigError(what, why=why, hint=f"forge serve {folder.name}")


def choose_launcher(options: ServeOptions) -> Launcher:
    """Return the launcher of several ranks.

    Raises:
        PrerequisiteError: No launcher is available.
    """
    return locate_launcher(options.section.launcher, os.environ)
