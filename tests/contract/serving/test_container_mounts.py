"""What a container sees of this machine."""

from __future__ import annotations

import csv
import socket
from typing import TYPE_CHECKING

from tests.contract.serving.container_argv import IN_DOCKER, error_of, has_gpus, served
from tests.rank_repositories import engine_model, llmapi_model, write_config

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


__all__ = ["has_gpus"]


def test_an_engine_named_by_a_path_of_this_machine_is_named_by_that_of_the_container(
    tmp_path: Path, has_gpus: Callable[[int], None]
) -> None:
    engine_model(tmp_path / "coder")

    options, _ = served(tmp_path / "coder")

    rewritten = next(csv.reader([options["--mount"][1]]))
    assert rewritten[2:] == ["target=/models/tensorrt_llm/config.pbtxt", "readonly"]


def test_a_repository_rendered_for_its_place_is_mounted_as_it_is(
    tmp_path: Path, has_gpus: Callable[[int], None]
) -> None:
    root = tmp_path / "coder"
    engine_model(root)
    named = {"gpt_model_path": "/models/tensorrt_llm/1/engine"}
    write_config(root, "tensorrt_llm", 'backend: "tensorrtllm"', named)

    options, _ = served(root)

    assert len(options["--mount"]) == 1


def test_what_models_name_outside_of_the_repository_is_mounted_where_they_name_it(
    tmp_path: Path, has_gpus: Callable[[int], None]
) -> None:
    root, checkpoint_dir, linked_dir = (tmp_path / name for name in ("coder", "hf", "linked"))
    checkpoint_dir.mkdir()
    linked_dir.mkdir()
    llmapi_model(root)
    path = root / "tensorrt_llm" / "1" / "model.yaml"
    path.write_text(path.read_text().replace("/m\n", f"{checkpoint_dir}\n"))
    (root / "tensorrt_llm" / "1" / "more").symlink_to(linked_dir)

    options, _ = served(root)

    assert options["--mount"][1:] == [
        f"type=bind,source={folder},target={folder},readonly"
        for folder in (checkpoint_dir, linked_dir)
    ]


def test_the_files_behind_a_snapshot_of_the_hub_are_mounted_too(
    tmp_path: Path, has_gpus: Callable[[int], None]
) -> None:
    root, cache_dir = tmp_path / "coder", tmp_path / "models--org--coder"
    snapshot_dir, blob_path = cache_dir / "snapshots" / "1f", cache_dir / "blobs" / "5e"
    for folder in (snapshot_dir, blob_path.parent):
        folder.mkdir(parents=True)
    blob_path.write_text("{}")
    (snapshot_dir / "config.json").symlink_to("../../blobs/5e")
    llmapi_model(root)
    path = root / "tensorrt_llm" / "1" / "model.yaml"
    path.write_text(path.read_text().replace("/m\n", f"{snapshot_dir}\n"))

    options, _ = served(root)

    assert options["--mount"][1:] == [
        f"type=bind,source={path},target={path},readonly" for path in (blob_path, snapshot_dir)
    ]


def test_a_socket_that_a_model_names_is_not_mounted(
    tmp_path: Path, has_gpus: Callable[[int], None]
) -> None:
    root, socket_path = tmp_path / "coder", tmp_path / "d.sock"
    llmapi_model(root)
    path = root / "tensorrt_llm" / "1" / "model.yaml"
    path.write_text(path.read_text().replace("/m\n", f"{socket_path}\n"))
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(socket_path))

        options, _ = served(root)

    assert len(options["--mount"]) == 1


def test_a_link_that_a_container_cannot_follow_is_told_with_the_one_it_can(
    tmp_path: Path, has_gpus: Callable[[int], None]
) -> None:
    root = tmp_path / "coder"
    llmapi_model(root)
    (tmp_path / "weights").mkdir()
    link = root / "tensorrt_llm" / "1" / "weights"
    link.symlink_to("../../../weights")

    error = error_of(root, *IN_DOCKER)

    assert error["exit_code"] == 3
    assert error["what"] == f"{link} leads out of the repository, where a container cannot follow"
    assert error["hint"] == f"ln -sfn {tmp_path / 'weights'} {link}"
