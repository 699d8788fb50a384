from __future__ import annotations

from pathlib import Path

import pytest

from tests.small_stage import printed
from trtllm_forge.errors import ConfigError
from trtllm_forge.releases.catalogue import is_of_line, read_catalogue, version_key
from trtllm_forge.releases.flags import find_flags

OVERLAY = """
schema: 1
images:
  - {triton: "26.09", trtllm: "1.2.2", size_gb: 14.3, examples: true}
releases:
  "1.2.2": {like: "1.2.1", engine: true, llmapi: true}
"""


def overlay(text: str) -> Path:
    path = Path("newer.yaml").absolute()
    path.write_text(text, encoding="utf-8")
    return path


def refusal(version: str) -> tuple[str, int]:
    with pytest.raises(ConfigError) as caught:
        read_catalogue().find(version)
    return printed(caught.value)


def test_releases_are_in_order_with_candidates_before_and_posts_after_their_release() -> None:
    versions = ["1.2.0", "1.2.1rc1", "1.2.1", "1.2.1.post1", "1.3.0rc5", "1.3.0rc5.post2"]
    versions += ["1.3.0rc10", "1.3.0"]
    assert sorted(reversed(versions), key=version_key) == versions
    known = list(read_catalogue().releases)
    assert sorted(known, key=version_key) == known


@pytest.mark.parametrize(
    ("version", "line", "is_of"),
    [
        ("1.2.1", "1.2", True),
        ("1.2.1", "1.2.1", True),
        ("1.20.0", "1.2", False),
        ("1.3.0rc1", "1.3.0", True),
        ("1.3.0", "", True),
    ],
)
def test_line_holds_its_patches_and_no_other(version: str, line: str, is_of: bool) -> None:
    assert is_of_line(version, line) is is_of


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        ("1.2.1", "1.2.1"),
        ("1.2", "1.2.1"),
        ("1.0", "1.0.0"),
        ("0.18", "0.18.2"),
        ("0.17", "0.17.0.post1"),
    ],
)
def test_two_numbers_stand_for_the_newest_patch_that_an_image_carries(
    asked: str, found: str
) -> None:
    assert read_catalogue().find(asked).version == found


def test_build_for_one_container_is_found_by_its_full_name_alone() -> None:
    assert read_catalogue().find("1.0.3.2510").version == "1.0.3.2510"
    assert refusal("1.0.3")[0].startswith("error: TensorRT-LLM 1.0.3 is not a release")


def test_newest_release_is_one_with_an_image() -> None:
    catalogue = read_catalogue()
    newest = {flow: catalogue.newest(flow) for flow in ("engine", "llmapi")}
    assert {flow: release.version for flow, release in newest.items() if release} == {
        "engine": "1.2.1",
        "llmapi": "1.2.1",
    }
    candidate = catalogue.newest("llmapi", line="1.3")
    assert candidate is not None
    assert candidate.version == "1.3.0rc29"
    assert catalogue.newest("engine", line="1.3") is None


def test_release_has_its_newest_image_and_an_image_its_release() -> None:
    catalogue = read_catalogue()
    image = catalogue.find("1.2.1").image
    assert image is not None
    assert image.reference == "nvcr.io/nvidia/tritonserver:26.07-trtllm-python-py3"
    assert image.size_bytes == 14_200_000_000
    carried = {one.trtllm_version for one in catalogue.images}
    assert carried <= set(catalogue.releases)
    for release in catalogue.releases.values():
        assert [one.trtllm_version for one in release.images] == [release.version] * len(
            release.images
        )


def test_only_the_image_of_0_16_has_no_examples() -> None:
    missing = [i.triton_release for i in read_catalogue().images if not i.has_examples]
    assert missing == ["24.12"]


def test_engine_flow_ends_with_1_2_and_the_llm_api_begins_with_1_0() -> None:
    flows = {name: release.flows for name, release in read_catalogue().releases.items()}
    engine = [name for name, has in flows.items() if "engine" in has]
    llmapi = [name for name, has in flows.items() if "llmapi" in has]
    assert (engine[0], engine[-1]) == ("0.16.0", "1.2.1")
    assert (llmapi[0], llmapi[-1]) == ("1.0.0", "1.4.0rc1")


UNKNOWN = {
    "1.5.0": "it is newer than 1.4.0rc1, the last one known; releases_file can describe it",
    "0.15.0": "forge supports releases from 0.16.0 on",
    "0.19.5": "the nearest known release is 0.19.0",
    # Its candidates are known, and are another thing.
    "1.3.0": "the nearest known release is 1.3.0rc29",
}
NEAREST = {"1.5.0": "1.2.1", "0.15.0": "0.16.0", "0.19.5": "0.19.0", "1.3.0": "1.3.0rc29"}


@pytest.mark.parametrize("version", UNKNOWN)
def test_release_that_is_not_known_is_refused_by_name(version: str) -> None:
    text, code = refusal(version)
    what, why, hint = text.splitlines()
    assert what == f"error: TensorRT-LLM {version} is not a release that this forge knows"
    assert why == f"  why:  {UNKNOWN[version]}"
    assert hint.endswith(f"--trtllm-version {NEAREST[version]}")
    assert code == 2
    assert read_catalogue().find(NEAREST[version]).version == NEAREST[version]


def test_overlay_adds_a_release_and_its_image() -> None:
    catalogue = read_catalogue(overlay(OVERLAY))
    release = catalogue.find("1.2")
    assert release.version == "1.2.2"
    assert release.is_overlaid
    assert release.image is not None
    assert release.image.reference == "nvcr.io/nvidia/tritonserver:26.09-trtllm-python-py3"
    assert catalogue.newest("engine") == release
    assert "1.2.2" not in read_catalogue().releases


def test_gpus_of_a_release_are_in_order() -> None:
    release = read_catalogue().find("1.2.1")
    assert release.gpu_architectures[-4:] == ("sm_100", "sm_103", "sm_120", "sm_121")


def test_what_an_overlay_says_is_never_more_than_near() -> None:
    table = find_flags("trtllm_build", read_catalogue(overlay(OVERLAY)).find("1.2.2"))
    known = find_flags("trtllm_build", read_catalogue().find("1.2.1"))
    assert table is not None
    assert known is not None
    assert table.evidence == "nearest"
    assert table.flags == known.flags


OVERLAY_REFUSALS = {
    "shape": (
        "[]",
        "has the wrong form",
        "it must begin with `schema: 1` and hold images and releases",
    ),
    "schema": (
        "schema: 2",
        "has the wrong form",
        "it must begin with `schema: 1` and hold images and releases",
    ),
    "like": (
        'schema: 1\nreleases: {"1.2.2": {like: "9.9.9"}}',
        ": release 1.2.2 is like 9.9.9, which is not known",
        "the nearest known release is 1.4.0rc1",
    ),
    "no-like": (
        'schema: 1\nreleases: {"1.2.2": {engine: true}}',
        ": release 1.2.2 has no like",
        "",
    ),
    "typo": (
        'schema: 1\nreleases: {"1.2.2": {like: "1.2.1", engin: true, gpu: [sm_90]}}',
        ": release 1.2.2: unknown key engin, the nearest is engine",
        "release 1.2.2: unknown key gpu, the nearest is gpus",
    ),
    "kinds": (
        'schema: 1\nreleases: {"1.2.2": {like: "1.2.1", engine: "no", gpus: sm_90}}',
        ": release 1.2.2: engine is 'no', wanted: true or false",
        "release 1.2.2: gpus is 'sm_90', wanted: a list such as [sm_90, sm_100]",
    ),
    "name": (
        'schema: 1\nreleases: {1.5: {like: "1.2.1"}}',
        ': release 1.5 is not a release name in quotes, such as "1.2.2"',
        "",
    ),
    "name without a place in the order": (
        'schema: 1\nreleases: {"1.2.2-nightly": {like: "1.2.1"}}',
        ': release 1.2.2-nightly is not a release name in quotes, such as "1.2.2"',
        "",
    ),
    "image": (
        "schema: 1\nimages: [{triton: 26.10, size_gb: big, examples: true}]",
        ": image 1 has no trtllm",
        "image 1: triton is 26.1, wanted: text, in quotes if it looks like a number\n"
        "        image 1: size_gb is 'big', wanted: a number above 0",
    ),
    "lists": (
        "schema: 1\nimages: {}\nreleases: [1]\nimage: 3",
        ": unknown key image, the nearest is images",
        "releases is not a mapping of names",
    ),
    "rows": (
        'schema: 1\nimages: [3]\nreleases: {"1.2.2": like}',
        ": image 1 is not a mapping",
        "release 1.2.2 is not a mapping",
    ),
}


@pytest.mark.parametrize("name", OVERLAY_REFUSALS)
def test_overlay_that_cannot_be_understood_is_refused(name: str) -> None:
    text, what, why = OVERLAY_REFUSALS[name]
    path = overlay(text)
    with pytest.raises(ConfigError) as caught:
        read_catalogue(path)
    space = "" if what.startswith(":") else " "
    shown = f"error: releases_file {path}{space}{what}"
    shown += f"\n  why:  {why}" if why else ""
    assert printed(caught.value) == (shown, 2)


def test_overlay_that_is_not_there_is_refused() -> None:
    path = Path("absent.yaml").absolute()
    with pytest.raises(ConfigError) as caught:
        read_catalogue(path)
    assert printed(caught.value) == (
        f"error: releases_file {path} cannot be read\n  why:  no such file or directory",
        2,
    )


def test_builds_of_a_release_are_equal_and_what_is_no_version_comes_first() -> None:
    assert version_key("1.2.1") == version_key("1.2.1+cu13") == version_key("1.2.1.0")
    assert version_key("none") < version_key("0.16.0")
    assert version_key("none") != version_key("another")
