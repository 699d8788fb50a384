"""Engine paths below a mount root hold wherever a repository is served from."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from trtllm_forge.errors import ServerError
from trtllm_forge.triton.repository.mount import ServedFolder, cpp_models, served_folder
from trtllm_forge.triton.repository.repository import parse_model_config

if TYPE_CHECKING:
    from pathlib import Path

ENGINE = "tensorrt_llm/1/engine"


def build(folder: Path, *, backend: str, engine_path: str) -> Path:
    text = (
        f'name: "tensorrt_llm"\nbackend: "{backend}"\nmax_batch_size: 4\n'
        f'parameters: {{ key: "gpt_model_path" value: {{ string_value: "{engine_path}" }} }}\n'
        'parameters: { key: "kv_cache_free_gpu_mem_fraction" value: { string_value: "0.2" } }\n'
    )
    (folder / ENGINE).mkdir(parents=True)
    (folder / ENGINE / "rank0.engine").write_text("weights")
    (folder / "tensorrt_llm" / "config.pbtxt").write_text(text)
    (folder / "ensemble" / "1").mkdir(parents=True)
    (folder / "ensemble" / "config.pbtxt").write_text('name: "ensemble" platform: "ensemble"\n')
    (folder / "forge.lock").write_text("{}")
    return folder


@pytest.mark.parametrize(
    "engine_path",
    ["/models/tensorrt_llm/1/engine", "/opt/here/mock/tensorrt_llm/1/engine", ENGINE],
    ids=["mount-root", "deeper-root", "relative"],
)
def test_a_path_that_is_not_there_is_rewritten_in_a_mirror(
    tmp_path: Path, engine_path: str
) -> None:
    repository_dir = build(tmp_path / "mock", backend="tensorrtllm", engine_path=engine_path)
    before = (repository_dir / "tensorrt_llm" / "config.pbtxt").read_text()

    mirror_dir = tmp_path / "run" / "mock-1"
    served = served_folder(repository_dir, mirror_dir)

    assert served.path == mirror_dir
    config_path = mirror_dir / "tensorrt_llm" / "config.pbtxt"
    assert list(served.texts) == [config_path]
    written_path = tmp_path / "config.pbtxt"
    written_path.write_text(served.texts[config_path])
    config = parse_model_config(written_path)
    path = config.parameters["gpt_model_path"].string_value
    assert path == str(repository_dir / ENGINE)
    assert config.parameters["kv_cache_free_gpu_mem_fraction"].string_value == "0.2"
    assert config.max_batch_size == 4
    assert served.links == {
        mirror_dir / "ensemble": repository_dir / "ensemble",
        mirror_dir / "forge.lock": repository_dir / "forge.lock",
        mirror_dir / "tensorrt_llm" / "1": repository_dir / "tensorrt_llm" / "1",
    }
    assert (repository_dir / "tensorrt_llm" / "config.pbtxt").read_text() == before


def test_a_repository_at_its_mount_root_is_mirrored_as_it_is(tmp_path: Path) -> None:
    folder = tmp_path / "models"
    repository_dir = build(folder, backend="tensorrtllm", engine_path=str(folder / ENGINE))

    assert served_folder(repository_dir, tmp_path / "run") == ServedFolder(path=repository_dir)
    assert served_folder(repository_dir, tmp_path / "run", is_mirrored=True) == ServedFolder(
        path=tmp_path / "run",
        links={
            tmp_path / "run" / name: repository_dir / name
            for name in ("ensemble", "forge.lock", "tensorrt_llm")
        },
    )


def test_a_twin_is_mirrored_as_it_is(tmp_path: Path) -> None:
    repository_dir = build(tmp_path / "mock", backend="python", engine_path=ENGINE)

    assert served_folder(repository_dir, tmp_path / "run") == ServedFolder(path=repository_dir)
    mirrored = served_folder(repository_dir, tmp_path / "run", is_mirrored=True)
    assert mirrored.path == tmp_path / "run"
    assert mirrored.texts == {}


def test_an_engine_that_is_nowhere_is_refused(tmp_path: Path) -> None:
    path = "/models/tensorrt_llm/2/engine"
    repository_dir = build(tmp_path / "mock", backend="tensorrtllm", engine_path=path)

    with pytest.raises(ServerError) as caught:
        served_folder(repository_dir, tmp_path / "run")

    assert caught.value.what == f"model tensorrt_llm names an engine that does not exist: {path}"
    config_path = repository_dir / "tensorrt_llm" / "config.pbtxt"
    assert caught.value.why == f"gpt_model_path in {config_path}"


def test_only_models_of_the_cpp_backend_are_found(tmp_path: Path) -> None:
    engine = build(tmp_path / "engine", backend="tensorrtllm", engine_path=ENGINE)
    twin = build(tmp_path / "twin", backend="python", engine_path=ENGINE)

    assert list(cpp_models(engine)) == ["tensorrt_llm"]
    assert list(cpp_models(twin)) == []
