"""Computes the shared memory of a repository's servers, for docker's ``--shm-size``.

::

    64 MiB for each instance of a Python model, on each rank that loads it, and 1 GiB for each rank

An instance of a Python model takes a region at its start and lets it grow when the tensors of its
requests do not fit: by 64 MiB each time in older Tritons, by 1 MiB in those of the images here
(triton-inference-server/python_backend src/python_be.cc). The 64 MiB leave room for many
concurrent requests. The GiB per rank follows NVIDIA's own commands: Open MPI and NCCL exchange
data through it. It is a limit, not a reservation: ``/dev/shm`` only takes memory for its content.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from trtllm_forge.triton.repository.pbtxt import parse_pbtxt

if TYPE_CHECKING:
    from pathlib import Path

    from trtllm_forge.triton.launch.rank_layout import RankLayout

SHM_BYTES_PER_INSTANCE = 64 << 20
"""Shared memory of one Python model instance: its initial region and room to grow."""

SHM_BYTES_PER_RANK = 1 << 30
"""Shared memory per rank, through which the ranks of an engine communicate."""


def shm_bytes(repository_dir: Path, layout: RankLayout) -> int:
    """Return the shared memory that all servers of a repository need together, in bytes."""
    instances = python_instances(repository_dir)
    others = sum(instances.get(model, 0) for model in layout.engine_models)
    count = sum(instances.values()) + (layout.world_size - 1) * others
    return count * SHM_BYTES_PER_INSTANCE + layout.world_size * SHM_BYTES_PER_RANK


def python_instances(repository_dir: Path) -> dict[str, int]:
    """Return the number of instances of each Python model on one rank, by model.

    A group of kind GPU, which has as many on each GPU, is counted once: the Python models of a
    TensorRT-LLM repository are of kind CPU.
    """
    found = {}
    for path in sorted(repository_dir.glob("*/config.pbtxt")):
        config, _ = parse_pbtxt(path.read_text(encoding="utf-8", errors="replace"))
        backend = config.scalar("backend")
        if backend is not None and backend.value == "python":
            counts = [group.scalar("count") for group in config.messages("instance_group")]
            found[path.parent.name] = sum((c and c.number) or 1 for c in counts) or 1
    return found
