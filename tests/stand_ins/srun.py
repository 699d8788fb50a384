"""Stands for Slurm's ``srun --label --multi-prog LIST``, on this machine alone.

The list has a rank and its words on each line. Ranks learn who they are from Slurm's variables,
their lines are labelled, and one that ends badly ends all, as with ``--kill-on-bad-exit``.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path


def main() -> int:
    assert "--mpi=pmix" in sys.argv
    assert "--label" in sys.argv
    lines = Path(sys.argv[sys.argv.index("--multi-prog") + 1]).read_text().splitlines()
    assert f"--ntasks={len(lines)}" in sys.argv
    tasks = [started(line.split(), len(lines)) for line in lines]
    labels = [threading.Thread(target=label, args=pair) for pair in enumerate(tasks)]
    for thread in labels:
        thread.start()
    codes = [0] * len(tasks)
    watchers = [
        threading.Thread(target=watch, args=(rank, tasks, codes)) for rank in range(len(tasks))
    ]
    for thread in watchers:
        thread.start()
    for thread in (*watchers, *labels):
        thread.join()
    return max(codes)


def started(words: list[str], count: int) -> subprocess.Popen[str]:
    env = {**os.environ, "SLURM_PROCID": words[0], "SLURM_NTASKS": str(count)}
    return subprocess.Popen(
        words[1:], env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def label(rank: int, task: subprocess.Popen[str]) -> None:
    assert task.stdout is not None
    for line in task.stdout:
        print(f"{rank}: {line}", end="", flush=True)


def watch(rank: int, tasks: list[subprocess.Popen[str]], codes: list[int]) -> None:
    code = tasks[rank].wait()
    if code and not any(codes):
        codes[rank] = 1
        ending = "Killed" if code < 0 else f"Exited with exit code {code}"
        print(f"srun: error: here: task {rank}: {ending}", flush=True)
        for task in tasks:
            task.kill()


if __name__ == "__main__":
    sys.exit(main())
