"""The real export, seen through ``forge build``, and what comes out of it."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from trtllm_forge.files.resources import sample_checkpoint_dir

if TYPE_CHECKING:
    from tests.twin import TwinWorkshop

pytestmark = pytest.mark.openvino


def engine_dir(document: dict[str, Any]) -> Path:
    return Path(document["repository"]) / "tensorrt_llm" / "1" / "engine"


def test_engine_json_says_what_the_engine_is(int4_document: dict[str, Any]) -> None:
    engine = json.loads((engine_dir(int4_document) / "engine.json").read_text())
    revision = engine["source"].pop("revision")
    assert revision == int4_document["model"]["revision"]
    assert engine == {
        "schema": 1,
        "runtime": "openvino",
        "architecture": "GPTBigCodeForCausalLM",
        "precision": "int4",
        "max_seq_len": 1024,
        "max_input_len": 1023,
        "vocab_size": 4096,
        "num_layers": 6,
        "num_kv_heads": 1,
        "head_dim": 64,
        "eos_token_ids": [0],
        "source": {"repo_id": "sample"},
    }


def test_int4_weights_take_less_than_half_of_fp16(
    fp16_document: dict[str, Any], int4_document: dict[str, Any]
) -> None:
    sizes = [
        (engine_dir(document) / "openvino_model.bin").stat().st_size
        for document in (fp16_document, int4_document)
    ]
    assert sizes[1] < sizes[0] / 2


def test_an_unchanged_rebuild_runs_no_stage(
    workshop: TwinWorkshop, int4_document: dict[str, Any]
) -> None:
    again = workshop.build("--int4", "--output", int4_document["repository"])
    assert [stage["run"] for stage in again["stages"]] == [False] * 4
    assert again["skipped"] is True


def test_a_deleted_repository_is_put_back_from_the_store(
    workshop: TwinWorkshop, int4_document: dict[str, Any]
) -> None:
    output_dir = workshop.root / "model_repos" / "again"
    workshop.build("--int4", "--output", str(output_dir))
    shutil.rmtree(output_dir)
    again = workshop.build("--int4", "--output", str(output_dir))
    assert [stage["run"] for stage in again["stages"]] == [False] * 4
    assert (output_dir / "tensorrt_llm/1/engine/openvino_model.bin").samefile(
        engine_dir(int4_document) / "openvino_model.bin"
    )


def test_the_lock_holds_the_digest_of_every_file(int4_document: dict[str, Any]) -> None:
    repository_dir = Path(int4_document["repository"])
    lock = json.loads((repository_dir / "forge.lock").read_text())
    locked = {output["path"] for output in lock["stages"]["render"]["outputs"]}
    present = {
        path.relative_to(repository_dir).as_posix()
        for path in repository_dir.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert present == locked | {"forge.lock", "forge.manifest.json"}


def test_another_precision_recompiles_and_says_why(
    workshop: TwinWorkshop, int4_document: dict[str, Any]
) -> None:
    done = workshop.forge(
        "build", "sample", "--int8", "--dry-run", "--json", "--output", int4_document["repository"]
    )
    stages = {stage["name"]: stage for stage in json.loads(done.stdout)["stages"]}
    assert stages["compile"]["run"] is True
    assert "precision: int4 -> int8" in stages["compile"]["reasons"]
    assert stages["download"]["run"] is False


def test_a_checkpoint_the_export_cannot_read_fails_with_its_last_words(
    workshop: TwinWorkshop, tmp_path: Path
) -> None:
    broken_dir = tmp_path / "broken"
    shutil.copytree(sample_checkpoint_dir(), broken_dir)
    config_path = broken_dir / "config.json"
    config = json.loads(config_path.read_text())
    config_path.write_text(json.dumps({**config, "n_inner": 999}))
    alone = replace(workshop, cache_dir=tmp_path / "cache")
    done = alone.forge("build", str(broken_dir), "--int4", "--output", str(tmp_path / "out"))
    assert done.returncode == 5
    assert done.stdout == ""
    assert "error: compile: exit code 1: " in done.stderr
    assert "log:" in done.stderr
    assert not (tmp_path / "out").exists()
    assert list(alone.cache_dir.glob("compile/*/.*.work")) == []


def test_a_build_killed_in_the_export_leaves_no_child_and_the_next_one_succeeds(
    workshop: TwinWorkshop, tmp_path: Path
) -> None:
    environment = {**workshop.environment, "FORGE_CACHE_DIR": str(tmp_path / "cache")}
    command = [sys.executable, "-m", "trtllm_forge", "build", "sample", "--int8"]
    with subprocess.Popen(
        [*command, "-vv"],
        env=environment,
        cwd=tmp_path,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    ) as first:
        assert first.stderr is not None
        # The export's first own line: it is at work now.
        is_at_work = any(
            "optimum-cli" not in line and line.startswith("compile") for line in first.stderr
        )
        first.send_signal(signal.SIGKILL)
    assert is_at_work
    assert list((tmp_path / "cache" / "compile").glob("*/*/entry.json")) == []
    again = subprocess.run(
        [*command, "--json"],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    document = json.loads(again.stdout)
    assert Path(document["lock"]).exists()
