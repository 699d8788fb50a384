"""How many ranks a repository is served with, and the errors of those who ask for others."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from tests.rank_repositories import engine_model, llmapi_model, twin_model, write_config
from trtllm_forge.errors import CheckpointError, ConfigError
from trtllm_forge.serving.plan.engine_ranks import read_engine_ranks
from trtllm_forge.triton.launch.rank_layout import RankLayout, RankMode, lay_out_ranks

if TYPE_CHECKING:
    from pathlib import Path


def layout(root: Path, *, wanted: int | None = None, mode: RankMode | None = None) -> RankLayout:
    engines = read_engine_ranks(root)
    return lay_out_ranks(engines, wanted=wanted, mode=mode, command="forge serve x")


def refusal(root: Path, *, wanted: int | None = None, mode: RankMode | None = None) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        layout(root, wanted=wanted, mode=mode)
    return caught.value


def test_an_engine_tells_its_ranks_by_its_mapping(tmp_path: Path) -> None:
    engine_model(tmp_path, tp_size=2, pp_size=3)

    assert layout(tmp_path) == RankLayout(world_size=6, engine_models=("tensorrt_llm",))


def test_an_engine_without_config_json_is_known_by_engine_json(tmp_path: Path) -> None:
    engine_dir = engine_model(tmp_path, tp_size=2)
    (engine_dir / "config.json").unlink()
    (engine_dir / "engine.json").write_text(json.dumps({"tp_size": 2, "pp_size": 1}))

    assert layout(tmp_path).world_size == 2


def test_an_engine_that_says_nothing_is_counted_by_its_rank_files(tmp_path: Path) -> None:
    (engine_model(tmp_path, tp_size=4) / "config.json").unlink()

    assert layout(tmp_path).world_size == 4


def test_an_engine_that_lacks_a_rank_is_not_whole(tmp_path: Path) -> None:
    engine_dir = engine_model(tmp_path, tp_size=4, rank_files=3)

    with pytest.raises(CheckpointError) as caught:
        layout(tmp_path)

    assert caught.value.what == "the engine has 3 of 4 rank files"
    assert caught.value.why == f"{engine_dir} has no rank3.engine"


def test_a_flag_that_contradicts_the_engine_is_refused_with_both_numbers(tmp_path: Path) -> None:
    engine_dir = engine_model(tmp_path, tp_size=2)

    error = refusal(tmp_path, wanted=4)

    assert error.what == "--world-size 4 does not fit: engine tensorrt_llm has 2 ranks"
    assert error.why == f"tp_size 2 and pp_size 1 in {engine_dir}/config.json"
    assert error.hint == "forge serve x --world-size 2"


def test_a_flag_that_says_what_the_engine_says_is_taken(tmp_path: Path) -> None:
    engine_model(tmp_path, tp_size=2)

    assert layout(tmp_path, wanted=2) == layout(tmp_path)


def test_the_llm_api_tells_its_ranks_in_model_yaml(tmp_path: Path) -> None:
    llmapi_model(tmp_path, tp_size=2, pp_size=2)

    found = layout(tmp_path)
    error = refusal(tmp_path, wanted=2)

    assert (found.world_size, found.is_llmapi) == (4, True)
    assert error.what == "--world-size 2 does not fit: model tensorrt_llm has 4 ranks"
    assert error.why == (
        "tensor_parallel_size 2 and pipeline_parallel_size 2 in "
        f"{tmp_path}/tensorrt_llm/1/model.yaml"
    )


def test_a_parallel_size_that_is_no_number_is_named(tmp_path: Path) -> None:
    llmapi_model(tmp_path)
    path = tmp_path / "tensorrt_llm" / "1" / "model.yaml"
    path.write_text("tensor_parallel_size: auto\n")

    with pytest.raises(CheckpointError) as caught:
        layout(tmp_path)

    assert (
        caught.value.what == "tensor_parallel_size is auto, not a whole number of ranks from 1 on"
    )
    assert caught.value.why == str(path)


def test_the_twin_takes_any_number_and_has_one(tmp_path: Path) -> None:
    twin_model(tmp_path)

    assert layout(tmp_path).needs_launcher is False
    assert layout(tmp_path, wanted=3) == RankLayout(
        world_size=3, engine_models=("tensorrt_llm",), is_topology_only=True
    )


def test_a_repository_without_an_engine_has_one_rank(tmp_path: Path) -> None:
    write_config(tmp_path, "simple", 'backend: "python"', {})

    assert layout(tmp_path) == layout(tmp_path, wanted=1) == RankLayout()
    assert refusal(tmp_path, wanted=2).what == (
        "--world-size 2 does not fit: no model here runs on several ranks"
    )


def test_engines_of_different_sizes_need_an_orchestrator(tmp_path: Path) -> None:
    engine_model(tmp_path, "a", tp_size=2)
    engine_model(tmp_path, "b", tp_size=4)

    error = refusal(tmp_path, mode="leader")

    assert layout(tmp_path) == RankLayout(
        mode="orchestrator", engine_models=("a", "b"), spawns=True
    )
    assert error.what == ("a has 2 ranks, b has 4: in leader mode all engines share the same ranks")
    assert error.hint == "forge serve x --mode orchestrator"


def test_several_engines_of_one_rank_need_neither(tmp_path: Path) -> None:
    engine_model(tmp_path, "a")
    engine_model(tmp_path, "b")

    assert layout(tmp_path).needs_launcher is False


def test_an_orchestrator_that_starts_ranks_is_one(tmp_path: Path) -> None:
    engine_model(tmp_path, "a", tp_size=2)
    engine_model(tmp_path, "b", tp_size=2)

    assert refusal(tmp_path, wanted=4).what == (
        "--world-size 4 does not fit: "
        "an orchestrator is 1 rank and starts those of each engine itself"
    )


def test_participants_make_the_world(tmp_path: Path) -> None:
    engine_model(tmp_path, "a", tp_size=2, participants="1,2")
    engine_model(tmp_path, "b", tp_size=1, participants="3")

    assert layout(tmp_path) == RankLayout(
        mode="orchestrator", world_size=4, engine_models=("a", "b")
    )


@pytest.mark.parametrize(
    ("participants", "what"),
    [
        (
            ("1,2", "2"),
            "participant_ids names ranks 1, 2, 2; it must name each rank from 1 on once",
        ),
        (
            ("0,1", "2"),
            "participant_ids names ranks 0, 1, 2; it must name each rank from 1 on once",
        ),
        (("1", "2"), "participant_ids of a names 1 rank, its engine has 2"),
        (("1,2", ""), "participant_ids of b names 0 ranks, its engine has 1"),
    ],
    ids=["twice", "the orchestrator's own", "too few", "one engine without"],
)
def test_participants_that_do_not_fit_are_refused(
    tmp_path: Path, participants: tuple[str, str], what: str
) -> None:
    engine_model(tmp_path, "a", tp_size=2, participants=participants[0])
    engine_model(tmp_path, "b", participants=participants[1])

    assert refusal(tmp_path).what == what


def test_the_orchestrator_belongs_to_tensorrt_engines(tmp_path: Path) -> None:
    twin_model(tmp_path)

    assert refusal(tmp_path, mode="orchestrator").what == (
        "--mode orchestrator needs a TensorRT engine, and no model here has one"
    )
