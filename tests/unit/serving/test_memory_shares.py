"""Engines that share memory, or replace each other, have to fit beside each other."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from trtllm_forge.errors import PrerequisiteError
from trtllm_forge.serving.plan import memory as swap_memory
from trtllm_forge.serving.plan import memory_shares
from trtllm_forge.serving.plan.memory import memory_need, require_memory
from trtllm_forge.serving.plan.memory_shares import memory_share, require_shares

if TYPE_CHECKING:
    from pathlib import Path

MIB = 1 << 20
LIMITS = {"num_layers": 2, "num_kv_heads": 4, "head_dim": 8, "max_seq_len": 480}
TOKEN_BYTES = 2 * 2 * 4 * 8 * 4
BATCH = 16


def twin(folder: Path, weight_bytes: int, parameters: str = "") -> Path:
    engine_dir = folder / "tensorrt_llm" / "1" / "engine"
    engine_dir.mkdir(parents=True)
    with (engine_dir / "openvino_model.bin").open("wb") as weights:
        weights.truncate(weight_bytes)
    (engine_dir / "engine.json").write_text(json.dumps(LIMITS))
    config = f'name: "tensorrt_llm" backend: "python" max_batch_size: {BATCH}\n{parameters}'
    (folder / "tensorrt_llm" / "config.pbtxt").write_text(config)
    return folder


def engine(folder: Path, weight_bytes: int, fraction: str) -> Path:
    engine_dir = folder / "tensorrt_llm" / "1"
    engine_dir.mkdir(parents=True)
    with (engine_dir / "rank0.engine").open("wb") as weights:
        weights.truncate(weight_bytes)
    values = {"gpt_model_path": str(engine_dir), "kv_cache_free_gpu_mem_fraction": fraction}
    lines = (
        f'parameters: {{ key: "{key}" value: {{ string_value: "{value}" }} }}'
        for key, value in values.items()
    )
    config = 'name: "tensorrt_llm" backend: "tensorrtllm"\n' + "\n".join(lines)
    (folder / "tensorrt_llm" / "config.pbtxt").write_text(config)
    return folder


def say_free(monkeypatch: pytest.MonkeyPatch, host: int, *gpus: int) -> None:
    for module in (memory_shares, swap_memory):
        monkeypatch.setattr(module, "free_memory_bytes", lambda: host)
        monkeypatch.setattr(module, "free_gpu_bytes", lambda: gpus)


def test_a_new_version_needs_its_weights_and_one_long_request(tmp_path: Path) -> None:
    folder = twin(tmp_path / "a", 10 * MIB)

    assert memory_need(folder).host_bytes == 10 * MIB + 480 * TOKEN_BYTES


def test_too_little_memory_for_a_second_engine_is_refused_with_both_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = twin(tmp_path / "a", 10 * MIB)
    say_free(monkeypatch, 8 * MIB)

    with pytest.raises(PrerequisiteError) as caught:
        require_memory(folder, what="it", held_bytes=30 * MIB, hint="forge stop a")

    assert caught.value.what == "it needs at least 10.2 MiB of memory, 8.0 MiB is free"
    assert caught.value.why == (
        "the server holds 30.0 MiB now and keeps it until the new version serves"
    )
    assert caught.value.hint == "forge stop a"


def test_a_second_engine_on_a_full_gpu_is_refused_with_both_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = engine(tmp_path / "a", 20 * MIB, "0.9")
    say_free(monkeypatch, 1 << 40, 8 * MIB)

    with pytest.raises(PrerequisiteError) as caught:
        require_memory(folder, what="it", held_bytes=0, hint="")

    assert caught.value.what == "it needs at least 20.0 MiB of GPU memory, 8.0 MiB is free"


def test_enough_memory_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folders = twin(tmp_path / "a", MIB), engine(tmp_path / "b", MIB, "0.9")
    host, gpu = (memory_need(folder) for folder in folders)
    say_free(monkeypatch, host.host_bytes, gpu.gpu_bytes)

    for folder in folders:
        require_memory(folder, what="it", held_bytes=0, hint="")

    say_free(monkeypatch, host.host_bytes - 1, gpu.gpu_bytes - 1)
    for folder in folders:
        with pytest.raises(PrerequisiteError, match=r"^it needs at least 1\.\d MiB of "):
            require_memory(folder, what="it", held_bytes=0, hint="")


def test_shares_of_one_gpu_have_to_add_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folders = [engine(tmp_path / name, 100 * MIB, "0.9") for name in "ab"]
    say_free(monkeypatch, 1 << 40, 1000 * MIB)

    with pytest.raises(PrerequisiteError) as caught:
        require_shares(folders)

    assert caught.value.what == (
        "2 engines would take 1.8 GiB of the memory of GPU 0, 1000.0 MiB is free"
    )
    assert caught.value.why == (
        "a takes 100.0 MiB and a KV cache of 810.0 MiB (0.9 of what is free); "
        "b takes 100.0 MiB and a KV cache of 810.0 MiB (0.9 of what is free)"
    )
    assert caught.value.hint == (
        "repository.kv_cache_free_gpu_mem_fraction: 0.4 in forge.yaml, and forge build"
    )


def test_shares_are_held_to_the_gpu_that_they_are_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    say_free(monkeypatch, 1 << 40, 300 * MIB, 1000 * MIB)

    with pytest.raises(PrerequisiteError, match=r"of GPU 0, 300\.0 MiB is free"):
        require_shares([engine(tmp_path / name, 100 * MIB, "0.6") for name in "ab"])


def test_a_share_that_is_no_number_is_left_to_the_check(tmp_path: Path) -> None:
    assert memory_share(engine(tmp_path, MIB, "most")) is None


def test_shares_that_add_up_are_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    say_free(monkeypatch, 1 << 40, 1000 * MIB)

    require_shares([engine(tmp_path / name, 100 * MIB, "0.44") for name in "ab"])
    with pytest.raises(PrerequisiteError, match=r"^2 engines would take 1010\.0 MiB"):
        require_shares([engine(tmp_path / name, 100 * MIB, "0.45") for name in "cd"])


def test_the_twin_takes_no_more_than_its_largest_batch_can_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders = [twin(tmp_path / name, MIB) for name in "ab"]
    most = BATCH * (480 + 32) * TOKEN_BYTES

    say_free(monkeypatch, 2 * (MIB + most))
    require_shares(folders)
    say_free(monkeypatch, 2 * (MIB + most) - 1)
    with pytest.raises(PrerequisiteError) as caught:
        require_shares(folders)

    assert caught.value.what.startswith("2 engines would take ")
