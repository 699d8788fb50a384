"""``forge versions``: from release to image, from image to release, from architecture to both."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from tests.checkpoint_builder import checkpoint_files, write_files
from tests.documentation import pages
from trtllm_forge.checkpoint.architectures import known_architectures
from trtllm_forge.checkpoint.presets import all_presets
from trtllm_forge.cli.app import app
from trtllm_forge.releases.catalogue import read_catalogue
from trtllm_forge.support.release_tools import converters_of, tools_of

OVERLAY = """\
schema: 1
images:
  - triton: "26.09"
    trtllm: "1.2.2"
    server: 2.73.0
    driver: 595.10.02
    size_gb: 14.3
    examples: true
releases:
  "1.2.2": {like: "1.2.1"}
"""


def run(line: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, shlex.split(line), prog_name="forge")
    return result.exit_code, result.stdout, result.stderr


def asked(line: str) -> dict[str, Any]:
    code, stdout, stderr = run(f"{line} --json")
    assert (code, stderr) == (0, "")
    document: dict[str, Any] = json.loads(stdout)
    assert document["schema"] == 1
    return document


def test_table_has_every_image_newest_first() -> None:
    code, stdout, _ = run("versions")
    images, _, _ = stdout.partition("\n\n")

    assert code == 0
    assert [line.split()[:2] for line in images.splitlines()[1:]] == [
        [image.triton_release, image.trtllm_version] for image in read_catalogue().images
    ]
    assert images.splitlines()[1].split() == [
        *("26.07", "1.2.1", "2.71.0", "3.12.3", "10.14.1.48", "13.1.0.036", "590.44.01"),
        *("14.2", "GB"),
    ]


def test_table_says_per_tool_how_sure_it_is() -> None:
    _, stdout, _ = run("versions")
    rows = {line.split("  ")[0]: line for line in stdout.partition("\n\n")[2].splitlines()}

    assert rows["1.2.1"].split() == [
        *("1.2.1", "nearest", "nearest", "nearest", "nearest"),
        *("80", "86", "89", "90", "100", "103", "120", "121"),
    ]
    assert rows["0.16.0"].split() == [
        *("0.16.0", "nearest", "nearest", "nearest", "unsupported", "80", "86", "89", "90"),
    ]
    assert rows["1.3.0rc0 to 1.3.0rc29"].split()[3:7] == [
        *("unsupported", "unsupported", "unsupported", "nearest"),
    ]


def test_document_has_every_release_with_a_source_for_each_tool_it_has() -> None:
    document = asked("versions")

    names = list(read_catalogue().releases)
    assert [release["version"] for release in document["releases"]] == names[::-1]
    for release in document["releases"]:
        for tool in (*release["tools"], *release["converters"]):
            assert tool["evidence"] in ("exact", "nearest", "unsupported")
            assert bool(tool["source"]) is (tool["evidence"] != "unsupported"), tool
    assert document["sources"]["compatibility"].startswith("triton-inference-server/server@")


def test_no_tool_of_a_flow_that_the_release_lacks_is_supported() -> None:
    for release in read_catalogue().releases.values():
        for tool in tools_of(release):
            assert (tool.evidence == "unsupported") is (tool.flow not in release.flows), tool


def test_release_tells_its_images_tools_and_converters() -> None:
    document = asked("versions 1.2.1")

    (release,) = document["releases"]
    assert [image["triton_release"] for image in release["images"]] == [
        *("26.07", "26.06", "26.05", "26.04"),
    ]
    assert [tool["tool"] for tool in release["tools"]] == [
        *("convert_checkpoint.py", "quantize.py", "trtllm-build"),
        *("Triton models", "tensorrt_llm.LLM", "llmapi Triton model"),
    ]
    paths = {tool["family"]: tool["path"] for tool in release["converters"]}
    assert paths["gpt"] == "examples/models/core/gpt/convert_checkpoint.py"
    assert (release["notes"], release["is_overlaid"]) == ([], False)


def test_release_in_words_names_what_was_read() -> None:
    code, stdout, _ = run("versions 0.16")

    assert code == 0
    assert stdout.startswith(
        "TensorRT-LLM 0.16.0: the engine flow\n"
        "GPUs        sm_80, sm_86, sm_89, sm_90\n"
        "built with  tensorrt 10.7, cuda 12.6.3, modelopt 0.21\n"
    )
    assert "Triton models           exact: read at the release tag\n" in stdout
    assert "\n  gpt             examples/gpt/convert_checkpoint.py\n" in stdout
    assert stdout.endswith(
        "note        image 24.12 holds no converters: "
        "set --examples-dir to the examples folder of a clone\n"
    )


@pytest.mark.parametrize(
    "image",
    [
        "25.10",
        "25.10-trtllm-python-py3",
        "nvcr.io/nvidia/tritonserver:25.10-trtllm-python-py3",
    ],
)
def test_image_leads_to_the_release_inside(image: str) -> None:
    document = asked(f"versions --image {image}")

    assert document["image"]["reference"] == "nvcr.io/nvidia/tritonserver:25.10-trtllm-python-py3"
    assert [release["version"] for release in document["releases"]] == ["1.0.0"]
    assert run(f"versions --image {image}")[1].startswith(
        "nvcr.io/nvidia/tritonserver:25.10-trtllm-python-py3 carries TensorRT-LLM 1.0.0\n"
    )


def test_image_whose_content_is_in_doubt_says_so() -> None:
    doubt = read_catalogue().sources["25.11"]

    assert asked("versions --image 25.11")["image"]["note"] == doubt
    assert f"note        image 25.11: {doubt}\n" in run("versions --image 25.11")[1]


@pytest.mark.parametrize(
    ("line", "error"),
    [
        (
            "versions 1.2.9",
            "error: TensorRT-LLM 1.2.9 is not a release that this forge knows\n"
            "  why:  the nearest known release is 1.2.1\n"
            "  try:  forge versions 1.2.1\n",
        ),
        (
            "versions 2.0.0",
            "error: TensorRT-LLM 2.0.0 is not a release that this forge knows\n"
            "  why:  it is newer than 1.4.0rc1, the last one known; "
            "releases_file can describe it\n"
            "  try:  forge versions 1.2.1\n",
        ),
        (
            "versions 0.9.0",
            "error: TensorRT-LLM 0.9.0 is not a release that this forge knows\n"
            "  why:  forge supports releases from 0.16.0 on\n"
            "  try:  forge versions 0.16.0\n",
        ),
        (
            "versions newest",
            'error: "newest" is not a TensorRT-LLM release\n'
            "  why:  a release looks like 1.2.1\n"
            "  try:  forge versions\n",
        ),
        (
            "versions 26.07",
            "error: 26.07 is a release of Triton, not of TensorRT-LLM\n"
            "  try:  forge versions --image 26.07\n",
        ),
        (
            "versions 1.2.1 --image 26.07",
            "error: VERSION 1.2.1 and --image 26.07 were both given\n"
            "  why:  each names a release\n"
            "  try:  forge versions --image 26.07\n",
        ),
        (
            "versions --image 24.10",
            "error: the image 24.10 is not one that this forge knows\n"
            "  why:  known are Triton 24.12 to 26.07; "
            "releases_file can describe more\n"
            "  try:  forge versions --image 24.12\n",
        ),
        (
            "versions --image latest",
            "error: the image latest is not one that this forge knows\n"
            "  why:  give a Triton release, 24.12 to 26.07, or a full image reference\n"
            "  try:  forge versions --image 26.07\n",
        ),
        (
            "versions --image nvcr.io/nvidia/tritonserver:26.07-py3",
            "error: the image nvcr.io/nvidia/tritonserver:26.07-py3 "
            "is not known to carry TensorRT-LLM\n"
            "  why:  for Triton 26.07, nvcr.io/nvidia/tritonserver:26.07-trtllm-python-py3 does\n"
            "  try:  forge versions --image 26.07\n",
        ),
        (
            "versions --architecture GPTBigCode",
            "error: GPTBigCode is neither an architecture that forge knows "
            "nor a preset or folder\n"
            f"  why:  it knows {len(known_architectures())}, the closest is GPTBigCodeForCausalLM\n"
            "  try:  forge versions --architecture GPTBigCodeForCausalLM\n",
        ),
        (
            "versions --architecture some/model",
            "error: the architecture of some/model is not known without asking the Hub\n"
            "  why:  forge versions does not use the network; "
            "forge plan reads the model's config.json\n"
            "  try:  forge plan some/model --runtime trtllm\n",
        ),
    ],
    ids=lambda value: value if value.startswith("versions") else "",
)
def test_what_is_not_known_is_refused_with_what_is_nearest(line: str, error: str) -> None:
    assert run(line) == (2, "", error)


def test_every_hint_works_as_typed() -> None:
    for line in ("versions 1.2.9", "versions --image 24.10", "versions --architecture Llama"):
        hint = re.search(r"try:  forge (.*)", run(line)[2])
        assert hint
        assert run(hint[1])[0] == 0, hint[1]


def test_starcoder_is_taken_by_the_engine_flow_of_every_release_that_has_one() -> None:
    document = asked("versions --architecture GPTBigCodeForCausalLM")

    assert document["architecture"]["gpt_variant"] == "starcoder"
    for release in document["releases"]:
        has_engines = "engine" in read_catalogue().releases[release["version"]].flows
        assert release["engine"]["takes"] is has_engines
        assert release["llmapi"]["takes"] is False
        if has_engines:
            assert release["engine"]["precisions"][:4] == ["fp16", "bf16", "int8", "int4"]
    assert document["sources"]


def test_flows_of_one_release_can_be_asked_for() -> None:
    assert run("versions 1.2.1 --architecture Qwen3ForCausalLM") == (
        0,
        "Qwen3ForCausalLM, family qwen\n"
        "1.2.1 (26.07)\n"
        "  engine flow (nearest): fp16, bf16, int8, int4; KV cache int8, fp8\n"
        "  LLM API (nearest, since 0.20): fp16, bf16\n"
        "the LLM API also takes checkpoints quantised as FP8 block, FP8 per-tensor, FP8 rowwise, "
        "NVFP4, W4A16 AWQ, W4A8 AWQ\n",
        "",
    )


def test_release_before_an_architecture_is_said_not_to_take_it() -> None:
    assert run("versions 0.16.0 --architecture Qwen3ForCausalLM") == (
        0,
        "Qwen3ForCausalLM, family qwen\nnone of these releases supports it\n",
        "",
    )


@pytest.mark.parametrize("preset", [preset.name for preset in all_presets()])
def test_every_preset_stands_for_an_architecture_that_some_release_takes(preset: str) -> None:
    releases = asked(f"versions --architecture {preset}")["releases"]

    assert any(row["engine"]["takes"] or row["llmapi"]["takes"] for row in releases)


def test_sample_and_folders_have_an_architecture_too() -> None:
    write_files(Path("mine"), checkpoint_files())

    names = [
        asked(f"versions --architecture {model}")["architecture"]["name"]
        for model in ("sample", "./mine", "starcoder")
    ]

    assert names == ["GPTBigCodeForCausalLM"] * 3


def test_precisions_are_those_that_a_plan_is_made_for() -> None:
    rows = asked("versions 1.2.1 --architecture sample")["releases"][0]["engine"]["precisions"]

    for word in ("int4_awq", "fp8", "nvfp4", "w4a8_awq"):
        flag = word.replace("_", "-")
        code, _, _ = run(f"plan sample --runtime trtllm --trtllm-version 1.2.1 --{flag}")
        assert (code == 0) is (word in rows), word


@pytest.mark.parametrize("way", ["flag", "variable", "file"])
def test_releases_file_adds_a_release_whose_facts_are_never_exact(
    way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("newer.yaml").write_text(OVERLAY)
    if way == "variable":
        monkeypatch.setenv("FORGE_RELEASES_FILE", "newer.yaml")
    if way == "file":
        Path("forge.yaml").write_text("releases_file: newer.yaml\n")
    flag = "--releases-file newer.yaml" if way == "flag" else ""

    document = asked(f"versions --image 26.09 {flag}")

    (release,) = document["releases"]
    assert (release["version"], release["is_overlaid"]) == ("1.2.2", True)
    assert {tool["evidence"] for tool in release["tools"]} == {"nearest"}
    assert release["notes"] == ["described by releases_file as like 1.2"]
    assert release["images"][0]["versions"] == {"server": "2.73.0", "driver": "595.10.02"}


def test_releases_file_that_is_not_there_is_an_error() -> None:
    assert run("versions --releases-file none.yaml") == (
        2,
        "",
        "error: releases_file none.yaml cannot be read\n  why:  no such file or directory\n",
    )


def page_part(name: str) -> str:
    """Return what docs/releases.md holds between its marks of this name."""
    return pages()["docs/releases.md"].split(f"<!-- {name} -->\n")[1].split(f"<!-- /{name} -->")[0]


def test_page_shows_the_table_as_it_is_printed() -> None:
    assert page_part("matrix") == f"```text\n{run('versions')[1]}```\n"


def test_page_says_where_each_converter_is() -> None:
    catalogue = read_catalogue()
    old, new = (
        {tool.name: tool.path.removesuffix("/convert_checkpoint.py") for tool in converters_of(r)}
        for r in (catalogue.releases["0.19.0"], catalogue.releases["1.2.1"])
    )
    rows = "".join(f"| {name} | `{old[name]}` | `{new[name]}` |\n" for name in new)

    assert page_part("converters") == (
        f"| Family | up to 0.19 | from 0.20 on |\n|---|---|---|\n{rows}"
    )


def test_converters_moved_with_release_0_20_and_never_again() -> None:
    places = {
        release.version: tuple(tool.path for tool in converters_of(release))
        for release in read_catalogue().releases.values()
        if "engine" in release.flows
    }

    for version, paths in places.items():
        is_old = version.startswith(("0.16", "0.17", "0.18", "0.19"))
        assert paths == places["0.19.0" if is_old else "1.2.1"], version


def test_example_of_the_page_works_as_it_is_typed() -> None:
    page = pages()["docs/newer-release.md"]
    example = re.search(r"```yaml\n(.*?)```", page, re.DOTALL)
    lines = re.findall(r"^forge (.*newer\.yaml.*)$", page, re.MULTILINE)
    assert example
    Path("newer.yaml").write_text(example[1])

    assert len(lines) == 2
    for line in lines:
        code, stdout, stderr = run(line)
        assert code == 0, stderr
        assert "1.2.2" in stdout + stderr
