"""How long a server may take, and when it is started again."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trtllm_forge.serving.plan.ready_timeout import default_ready_timeout_s
from trtllm_forge.serving.server.restart import restart_delay_s
from trtllm_forge.triton.launch.startup_log import LoadedModels

if TYPE_CHECKING:
    from pathlib import Path


def sparse(path: Path, size_bytes: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.truncate(size_bytes)


def test_the_deadline_follows_the_size_of_what_is_loaded(tmp_path: Path) -> None:
    repository_dir = tmp_path / "repository"
    sparse(tmp_path / "store" / "rank0.engine", 14_000_000_000)
    engine_dir = repository_dir / "tensorrt_llm" / "1"
    engine_dir.mkdir(parents=True)
    (engine_dir / "engine").symlink_to(tmp_path / "store")

    seconds, why = default_ready_timeout_s(repository_dir)

    assert seconds == 120 + 140
    assert why == "it may take 260 s to be ready: 120 s, and 13.0 GiB at 100 MB/s"


def test_a_checkpoint_outside_the_repository_counts(tmp_path: Path) -> None:
    sparse(tmp_path / "checkpoint" / "model.safetensors", 1_000_000_000)
    path = tmp_path / "repository" / "tensorrt_llm" / "1" / "model.yaml"
    path.parent.mkdir(parents=True)
    path.write_text(f"model: {tmp_path / 'checkpoint'}\n")

    seconds, _ = default_ready_timeout_s(tmp_path / "repository")

    assert round(seconds) == 130


def test_each_restart_waits_twice_as_long_up_to_a_minute() -> None:
    assert [restart_delay_s(n) for n in (0, 1, 2, 5, 6, 60)] == [1, 2, 4, 32, 60, 60]


def test_what_is_loaded_is_read_from_a_log_as_it_grows() -> None:
    models = LoadedModels()

    texts = [models.text()]
    for line in (
        'I "loading: preprocessing:1"',
        'I "loading: tensorrt_llm:1"',
        "I \"successfully loaded 'preprocessing'\"",
        "I \"successfully loaded 'tensorrt_llm'\"",
    ):
        models.read([line])
        texts.append(models.text())

    assert texts == [
        "starting Triton",
        "loading preprocessing, 0 of 1 models are loaded",
        "loading preprocessing, tensorrt_llm, 0 of 2 models are loaded",
        "loading tensorrt_llm, 1 of 2 models are loaded",
        "2 of 2 models are loaded",
    ]
