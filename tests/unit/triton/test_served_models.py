"""Two versions or two repositories in one server have names that do not clash."""

from __future__ import annotations

import shutil
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from tests.rendering import llmapi_stage, parameters, render, stage
from trtllm_forge.errors import ServerError
from trtllm_forge.serving.plan.served_set import (
    ServedSet,
    changing,
    read_served_set,
    write_served_set,
)
from trtllm_forge.triton.repository.served_models import ServedRepository, served_models

if TYPE_CHECKING:
    from pathlib import Path

    from trtllm_forge.triton.repository.served_models import ServedModels

INNER = ("postprocessing", "preprocessing", "tensorrt_llm")


@pytest.fixture
def repository_dir(tmp_path: Path) -> Path:
    return render(tmp_path, stage("openvino"))


def config(models: ServedModels, name: str) -> Any:
    return text_format.Parse(
        models.folders[name].texts["config.pbtxt"], model_config_pb2.ModelConfig()
    )


def steps(models: ServedModels, name: str) -> list[str]:
    return [step.model_name for step in config(models, name).ensemble_scheduling.step]


def test_a_prefix_stands_before_every_name(repository_dir: Path) -> None:
    one = ServedRepository(name="coder", repository_dir=repository_dir, prefix="coder.")

    models = served_models(one)

    assert models.fronts == ("coder.tensorrt_llm_bls", "coder.ensemble")
    assert models.inner == tuple(f"coder.{name}" for name in INNER)
    assert (models.aliases, models.rehearsals) == ((), ())
    assert set(models.folders) == {*models.fronts, *models.inner}
    assert all(config(models, name).name == name for name in models.folders)
    assert steps(models, "coder.ensemble") == [
        "coder.preprocessing",
        "coder.tensorrt_llm",
        "coder.postprocessing",
    ]


def test_models_call_those_of_their_own_version(repository_dir: Path) -> None:
    models = served_models(ServedRepository(name="s", repository_dir=repository_dir, version=3))

    assert models.fronts == ("tensorrt_llm_bls", "ensemble")
    assert models.inner == tuple(f"{name}.3" for name in INNER)
    assert models.rehearsals == ("tensorrt_llm_bls.3", "ensemble.3")
    assert steps(models, "ensemble") == steps(models, "ensemble.3")
    assert steps(models, "ensemble") == [
        "preprocessing.3",
        "tensorrt_llm.3",
        "postprocessing.3",
    ]
    called = parameters(config(models, "tensorrt_llm_bls"))
    assert called["tensorrt_llm_model_name"] == "tensorrt_llm.3"
    assert called["preprocessing_model_name"] == "preprocessing.3"
    stopped = parameters(config(models, "postprocessing.3"))["tensorrt_llm_model_name"]
    assert stopped == "tensorrt_llm.3"


def test_the_latest_version_on_disk_is_the_one_of_that_number(repository_dir: Path) -> None:
    models = served_models(ServedRepository(name="s", repository_dir=repository_dir, version=3))

    links = models.folders["tensorrt_llm.3"].links
    folder = repository_dir / "tensorrt_llm" / "1"
    assert links == {f"3/{path.name}": path.resolve() for path in folder.iterdir()}


def test_python_writes_nothing_into_a_served_folder(repository_dir: Path, tmp_path: Path) -> None:
    models = served_models(ServedRepository(name="s", repository_dir=repository_dir, version=2))
    folder = tmp_path / "view" / "tensorrt_llm.2"
    folder.parent.mkdir()
    models.folders["tensorrt_llm.2"].write(folder)
    before = sorted(folder.rglob("*"))
    command = [sys.executable, "-c", "import sys; sys.path.insert(0, sys.argv[1]); import wire"]

    subprocess.run([*command, str(folder / "2")], check=True)

    assert sorted(folder.rglob("*")) == before


def test_nothing_is_written_for_a_server_that_has_ended(
    repository_dir: Path, tmp_path: Path
) -> None:
    models = served_models(ServedRepository(name="s", repository_dir=repository_dir, version=2))
    view_dir = tmp_path / "run" / "view"
    view_dir.mkdir(parents=True)

    def load_into_it() -> None:
        with changing(view_dir, "coder"):
            shutil.rmtree(view_dir.parent)
            models.folders["tensorrt_llm.2"].write(view_dir / "tensorrt_llm.2")

    with pytest.raises(ServerError) as caught:
        load_into_it()

    assert caught.value.what == "the server coder has ended"
    assert not view_dir.parent.exists()


def test_paths_lead_to_the_repository_itself(repository_dir: Path) -> None:
    models = served_models(ServedRepository(name="s", repository_dir=repository_dir, version=2))

    path = parameters(config(models, "tensorrt_llm.2"))["gpt_model_path"]

    assert path == str(repository_dir / "tensorrt_llm/1/engine")


def test_an_inner_model_keeps_its_name_as_an_ensemble_of_one_step(repository_dir: Path) -> None:
    models = served_models(ServedRepository(name="s", repository_dir=repository_dir, version=2))

    alias, core = config(models, "tensorrt_llm"), config(models, "tensorrt_llm.2")

    assert models.aliases == INNER
    assert alias.platform == "ensemble"
    assert steps(models, "tensorrt_llm") == ["tensorrt_llm.2"]
    assert [tensor.name for tensor in alias.input] == [tensor.name for tensor in core.input]
    # Within an ensemble a name is one tensor.
    missing = {tensor.name for tensor in core.output} - {tensor.name for tensor in alias.output}
    assert missing == {"context_phase_params"}
    assert not any(tensor.HasField("reshape") for tensor in (*alias.input, *alias.output))


def test_the_one_model_over_the_llm_api_is_a_front_model(tmp_path: Path) -> None:
    repository_dir = render(tmp_path, llmapi_stage())

    models = served_models(ServedRepository(name="s", repository_dir=repository_dir, version=2))

    assert models.fronts == ("tensorrt_llm",)
    assert (models.inner, models.aliases) == ((), ())


def test_a_model_with_built_in_names_is_refused(repository_dir: Path) -> None:
    path = repository_dir / "tensorrt_llm_bls" / "1" / "model.py"
    text = path.read_text()
    path.write_text(text.replace("preprocessing_model_name", "other_name"))

    with pytest.raises(ServerError) as caught:
        served_models(ServedRepository(name="s", repository_dir=repository_dir, version=2))

    assert caught.value.what == (
        f"model tensorrt_llm_bls of {repository_dir} calls other models by names that are "
        "built into it"
    )
    assert caught.value.hint == "build it again with this forge"


def test_a_folder_takes_the_place_of_a_link(repository_dir: Path, tmp_path: Path) -> None:
    models = served_models(ServedRepository(name="s", repository_dir=repository_dir, version=2))
    folder = tmp_path / "view" / "ensemble"
    folder.parent.mkdir()
    folder.symlink_to(repository_dir / "ensemble")

    models.folders["ensemble"].write(folder)

    assert sorted(path.name for path in folder.iterdir()) == ["2", "config.pbtxt"]
    assert (repository_dir / "ensemble" / "1").is_dir()


def test_what_a_server_has_is_read_as_it_was_written(tmp_path: Path) -> None:
    one = ServedRepository(name="a", repository_dir=tmp_path / "a", prefix="a.", version=2)
    served = ServedSet(view_dir=tmp_path / "repository", repositories=(one,))

    write_served_set(served)

    assert read_served_set(tmp_path / "repository") == served
    assert read_served_set(tmp_path / "elsewhere" / "repository") is None


def test_errors_name_files_where_the_repository_has_them(tmp_path: Path) -> None:
    served = ServedSet(
        view_dir=tmp_path / "repository",
        repositories=(
            ServedRepository(name="a", repository_dir=tmp_path / "a"),
            ServedRepository(name="b", repository_dir=tmp_path / "b", prefix="b.", version=2),
        ),
    )

    text = served.real_paths(
        f"{tmp_path}/repository/tensorrt_llm/1/model.py:5, "
        f"{tmp_path}/repository/b.tensorrt_llm.2/2/model.py:7"
    )

    assert text == f"{tmp_path}/a/tensorrt_llm/1/model.py:5, {tmp_path}/b/tensorrt_llm/1/model.py:7"
