"""Decides which ranks a repository is served with, and what starts them."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from trtllm_forge.errors import ConfigError
from trtllm_forge.triton.engine_ranks import read_engine_ranks
from trtllm_forge.triton.mpi import Launcher, locate_launcher
from trtllm_forge.triton.rank_layout import RankLayout, lay_out_ranks

if TYPE_CHECKING:
    from trtllm_forge.serving.launch_plan import ServeOptions


def choose_ranks(options: ServeOptions, command: str) -> RankLayout:
    """Return the ranks that serve a repository.

    Raises:
        ConfigError: The flags contradict the engine, or each other.
        CheckpointError: An engine is not whole.
    """
    engines = read_engine_ranks(options.repository_dir)
    layout = lay_out_ranks(engines, wanted=options.world_size, mode=options.mode, command=command)
    if options.hostfile is not None:
        if not options.hostfile.is_file():
            what = f"--hostfile {options.hostfile} is no file"
            raise ConfigError(what)
        if layout.is_topology_only:
            what = "--hostfile is given, and the twin's ranks meet on one machine"
            raise ConfigError(what, why="they share no work that another machine could do")
    return layout


def choose_launcher(options: ServeOptions, layout: RankLayout) -> Launcher | None:
    """Return what starts several ranks, or None where there is one.

    Raises:
        PrerequisiteError: Nothing here can.
    """
    return locate_launcher(options.launcher, os.environ) if layout.needs_launcher else None
