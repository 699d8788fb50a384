"""Several repositories in one server, and a version that is replaced while it serves."""

from __future__ import annotations

import argparse
import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest

from scripts.swap_under_load import NAME, Bench, run
from tests.triton.served import Served, serve

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator
    from pathlib import Path

    from tests.twin import TwinWorkshop

pytestmark = pytest.mark.triton

PROMPT = "def read_json(path):\n    "
IDS = [526, 901, 70, 275, 700, 626]
LONG = 900


@pytest.fixture(scope="module")
def bench(
    workshop: TwinWorkshop, fp16_document: dict[str, Any], int4_document: dict[str, Any]
) -> Bench:
    """One repository with two builds, the fp16 one in place."""
    builds = {
        "old": workshop.root / fp16_document["repository"],
        "new": workshop.root / int4_document["repository"],
    }
    return Bench(workshop.root, workshop.environment, builds)


@pytest.fixture(scope="module")
def swapped(workshop: TwinWorkshop, bench: Bench) -> Iterator[Served]:
    """A server of that repository."""
    with serve(workshop, NAME) as served:
        yield served


def text(served: Served, model: str = "ensemble") -> str:
    answer = served.generate(model, text_input=PROMPT, max_tokens=24)
    assert "text_output" in answer, answer
    return str(answer["text_output"])


def document(done: subprocess.CompletedProcess[str], code: int = 0) -> dict[str, Any]:
    assert done.returncode == code, done.stdout + done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def reload(workshop: TwinWorkshop, code: int = 0) -> dict[str, Any]:
    return document(workshop.forge("reload", NAME, "--server", NAME, "--json"), code)


def test_no_request_fails_or_is_mixed_while_versions_are_replaced(
    swapped: Served, bench: Bench
) -> None:
    options = argparse.Namespace(minutes=0.3, swaps=2, streams=8, seed=1)

    assert run(bench, swapped.document, options) == []


def test_a_repository_that_changed_on_disk_is_served_only_once_it_is_asked_for(
    workshop: TwinWorkshop, swapped: Served, bench: Bench
) -> None:
    bench.put("old")
    reload(workshop)
    before = text(swapped)

    bench.put("new")
    assert text(swapped) == before
    after = reload(workshop)

    assert text(swapped) != before
    assert after["front_models"] == ["tensorrt_llm_bls", "ensemble"]
    assert after["is_drained"]


def test_the_core_answers_under_its_own_name_after_a_reload(swapped: Served) -> None:
    answer = swapped.generate(
        "tensorrt_llm",
        input_ids=IDS,
        input_lengths=len(IDS),
        request_output_len=4,
        exclude_input_in_output=True,
    )
    assert answer["sequence_length"] == 4


@pytest.mark.parametrize("model", ["tensorrt_llm", "ensemble"])
def test_a_stream_that_began_before_a_reload_is_read_to_its_end(
    workshop: TwinWorkshop, swapped: Served, model: str
) -> None:
    inputs: dict[str, Any] = {"text_input": PROMPT, "max_tokens": LONG, "end_id": -1}
    if model == "tensorrt_llm":
        inputs = {"input_ids": IDS, "input_lengths": len(IDS), "request_output_len": LONG}
        inputs["end_id"] = -1
    inputs["return_num_output_tokens"] = True
    stream = swapped.stream(model, **inputs)
    answers = [next(stream)]

    with ThreadPoolExecutor() as pool:
        reloading = pool.submit(reload, workshop)
        answers += stream
        assert reloading.result()["is_drained"]

    assert [answer["error"] for answer in answers if "error" in answer] == []
    assert sum(answer["num_output_tokens"] for answer in answers) == LONG


def test_all_probes_are_well_after_a_reload(workshop: TwinWorkshop, swapped: Served) -> None:
    probes = document(workshop.forge("probe", "--server", NAME, "--json"))["probes"]

    assert [probe["detail"] for probe in probes if not probe["ok"]] == []


def test_a_repository_that_does_not_load_leaves_the_old_one_in_service(
    workshop: TwinWorkshop, swapped: Served, bench: Bench
) -> None:
    before = text(swapped)
    bench.put("old")
    path = bench.repository_dir / "tensorrt_llm_bls" / "1" / "model.py"
    path.write_text(path.read_text() + "\nraise RuntimeError('broken on purpose')\n")

    refused = reload(workshop, 4)["error"]
    failed = document(workshop.forge("reload", NAME, "--server", NAME, "--no-verify", "--json"), 7)[
        "error"
    ]

    assert "tensorrt_llm_bls/1/model.py was changed" in refused["why"]
    assert failed["what"] == (
        f"model tensorrt_llm_bls of {NAME} did not load: RuntimeError: broken on purpose"
    )
    assert "what was served before is still served" in failed["why"]
    assert f"{bench.repository_dir}/tensorrt_llm_bls/1/model.py" in failed["why"]
    assert text(swapped) == before
    status = document(workshop.forge("status", NAME, "--json"))
    assert status["front_models"] == [{"name": "ensemble", "is_ready": True}]
    assert status["models"][-1]["state"] == "READY"


@pytest.fixture(scope="module")
def two(
    workshop: TwinWorkshop, fp16_document: dict[str, Any], int4_document: dict[str, Any]
) -> Iterator[Served]:
    """A server of two repositories."""
    assert fp16_document["repository"] != int4_document["repository"]
    with serve(workshop, "fp16", "int4") as served:
        yield served


def test_each_repository_is_served_under_its_name(two: Served, bench: Bench) -> None:
    assert two.document["front_models"] == ["fp16.ensemble", "int4.ensemble"]
    texts = {front: text(two, front) for front in two.document["front_models"]}

    assert len(set(texts.values())) == 2
    assert texts["int4.ensemble"] == text(two, "int4.tensorrt_llm_bls")


def test_commands_take_the_model_they_are_to_ask(workshop: TwinWorkshop, two: Served) -> None:
    name = str(two.document["name"])
    unnamed = document(workshop.forge("complete", PROMPT, "--server", name, "--json"), 2)["error"]
    named = [
        document(workshop.forge("complete", PROMPT, "--server", name, "--model", model, "--json"))
        for model in ("fp16", "fp16.ensemble", "int4")
    ]
    probes = document(workshop.forge("probe", "--server", name, "--model", "int4", "--json"))[
        "probes"
    ]

    assert unnamed["what"] == f"{name} serves 2 repositories; name one"
    assert unnamed["why"] == "their front models are fp16.ensemble, int4.ensemble"
    assert named[0]["text"] == named[1]["text"] != named[2]["text"]
    assert [probe["detail"] for probe in probes if not probe["ok"]] == []


def test_one_of_two_is_unloaded_loaded_and_replaced(workshop: TwinWorkshop, two: Served) -> None:
    name = str(two.document["name"])
    before = text(two, "int4.ensemble")

    document(workshop.forge("unload", "int4", "--server", name, "--json"))
    gone = two.generate("int4.ensemble", text_input=PROMPT, max_tokens=4)
    assert "error" in gone
    assert text(two, "fp16.ensemble")

    loaded = document(workshop.forge("load", "int4", "--server", name, "--json"))
    assert set(loaded["front_models"]) == {"int4.ensemble", "int4.tensorrt_llm_bls"}
    assert text(two, "int4.ensemble") == before

    again = document(workshop.forge("load", "int4", "--server", name, "--json"), 2)["error"]
    assert again["what"] == f"{name} already serves int4"
    document(workshop.forge("reload", "int4", "--server", name, "--json"))
    assert text(two, "int4.ensemble") == before
    unknown = document(workshop.forge("reload", "int8", "--server", name, "--json"), 2)["error"]
    assert unknown["why"] == "it serves fp16, int4"


def test_two_folders_of_one_name_are_refused(workshop: TwinWorkshop, tmp_path: Path) -> None:
    other_dir = tmp_path / "fp16"
    shutil.copytree(workshop.root / "model_repos" / "fp16", other_dir)

    refused = document(workshop.forge("serve", "fp16", str(other_dir), "--json"), 2)["error"]

    assert (
        refused["what"]
        == "two repositories are named fp16, so their models would have the same names"
    )
    assert str(other_dir) in refused["why"]
