"""The catalogue of failures: each recorded message is told as its own entry and no other."""

from __future__ import annotations

import re
import string
import time
from pathlib import Path

import pytest

from trtllm_forge.files.resources import read_yaml
from trtllm_forge.machine.process.failures import (
    Diagnosis,
    KnownFailure,
    find_failure,
    known_failures,
    without_marks,
)

PAGE = Path(__file__).parent.parent.parent.parent / "docs" / "troubleshooting.md"

ENTRIES = known_failures()
NAMES = ("Open MPI", "PyTorch", "Python", "TensorRT", "Triton")


def by_code(entry: KnownFailure) -> str:
    return entry.code


@pytest.mark.parametrize("entry", ENTRIES, ids=by_code)
def test_a_recorded_message_is_told_as_its_own_entry(entry: KnownFailure) -> None:
    found = find_failure(entry.message.splitlines(), where="any", returncode=1)

    assert found is not None
    assert (found.code, found.thread) == (entry.code, entry.thread)
    assert found.line
    assert not re.search(r"\{\w+\}", found.cause + found.hint)


@pytest.mark.parametrize("entry", ENTRIES, ids=by_code)
def test_a_recorded_message_is_told_wherever_its_entry_applies(entry: KnownFailure) -> None:
    found = {
        where: find_failure(entry.message.splitlines(), where=where, returncode=1)
        for where in entry.where
    }

    assert {where: one and one.code for where, one in found.items()} == dict.fromkeys(
        entry.where, entry.code
    )


@pytest.mark.parametrize("entry", ENTRIES, ids=by_code)
def test_cause_and_hint_read_as_the_other_errors_do(entry: KnownFailure) -> None:
    for text in (entry.cause, entry.hint):
        assert not re.match(r"[A-Z][a-z]", text) or text.startswith(NAMES)
        assert not text.endswith(".")
        assert "please" not in text.lower()


@pytest.mark.parametrize("entry", ENTRIES, ids=by_code)
def test_cause_and_hint_name_groups_of_the_pattern_only(entry: KnownFailure) -> None:
    named = {
        name
        for text in (entry.cause, entry.hint)
        for _, name, _, _ in string.Formatter().parse(text)
        if name
    }
    assert entry.pattern is not None
    assert named <= set(entry.pattern.groupindex)
    # The exit code alone gives no groups.
    assert not (entry.returncodes and named)


def test_every_entry_says_where_its_wording_was_seen_and_has_a_code_of_its_own() -> None:
    raw = read_yaml("failures.yaml")

    assert raw["schema"] == 1
    assert len({entry["code"] for entry in raw["failures"]}) == len(raw["failures"]) >= 45
    assert [entry["code"] for entry in raw["failures"] if not entry["evidence"]] == []
    assert {key for entry in raw["failures"] for key in entry} == {
        *("code", "where", "pattern", "returncodes", "message"),
        *("cause", "hint", "thread", "evidence"),
    }


def test_at_least_thirty_entries_are_for_serving() -> None:
    assert sum(bool(entry.where & {"serve", "mpi", "any"}) for entry in ENTRIES) >= 30


def test_the_numbers_of_a_message_stand_in_the_cause() -> None:
    line = (
        "[03/27/2024-11:09:02] [TRT] [E] 6: The engine plan file is generated on an incompatible "
        "device, expecting compute 8.0 got compute 8.9, please rebuild."
    )

    assert find_failure(["before", line, "after"], where="serve", returncode=1) == Diagnosis(
        code="engine-gpu-architecture",
        cause="the engine was compiled for GPUs of compute capability 8.9, but this GPU has 8.0",
        hint="compile it on a GPU of compute capability 8.0, "
        "or select one of 8.9 with CUDA_VISIBLE_DEVICES",
        thread="https://github.com/run-llama/llama_index/issues/12318",
        line="6: The engine plan file is generated on an incompatible device, "
        "expecting compute 8.0 got compute 8.9, please rebuild.",
    )


@pytest.mark.parametrize("returncode", [-9, 137], ids=["signal", "through-docker-or-a-shell"])
def test_a_kill_is_told_by_its_exit_code_whatever_was_printed(returncode: int) -> None:
    lines = ["ModuleNotFoundError: No module named 'flash_attn'"]

    found = find_failure(lines, where="convert", returncode=returncode)

    assert found is not None
    assert (found.code, found.line) == ("killed-for-memory", "")


def test_the_cause_comes_before_what_follows_from_it_though_it_was_printed_later() -> None:
    lines = [
        "ensemble 'ensemble' depends on 'tensorrt_llm' which has no loaded version.",
        "[1,1]<stderr>:[TensorRT-LLM][ERROR] Assertion failed: mpiSize == tp * pp (x.cpp:80)",
    ]

    found = find_failure(lines, where="serve", returncode=1)

    assert found is not None
    assert found.code == "world-size"


def test_a_failure_of_converting_is_not_looked_for_while_serving() -> None:
    line = "ValueError: GPTQ with desc_act=True is not implemented!"

    assert find_failure([line], where="serve", returncode=1) is None
    assert find_failure([line], where="convert", returncode=1) is not None


@pytest.mark.parametrize(
    "line",
    [
        "W0816 16:43:33.649654 127 pinned_memory_manager.cc:236] Unable to allocate pinned system "
        "memory, pinned memory pool will not be available: CUDA driver version is insufficient "
        "for CUDA runtime version",
        "Error: Failed to initialize NVML",
        'W1121 06:49:32 1 metrics.cc:798] "DCGM unable to start: DCGM initialization error"',
        "[TensorRT-LLM][WARNING] [json.exception.out_of_range.403] key 'max_draft_len' not found",
        "[11/10/2023-06:30:40] [TRT] [W] Requested amount of GPU memory (24793579520 bytes) could "
        "not be allocated. There may not be enough free memory for allocation to succeed.",
    ],
    ids=["pinned-memory", "nvml", "dcgm", "optional-key", "a-kernel-that-was-skipped"],
)
def test_what_a_healthy_child_prints_is_no_failure(line: str) -> None:
    assert find_failure([line], where="any", returncode=1) is None


@pytest.mark.parametrize("lines", [[], [""], ["something else"]], ids=["none", "empty", "other"])
def test_an_unknown_failure_is_none(lines: list[str]) -> None:
    assert find_failure(lines, where="any", returncode=1) is None


@pytest.mark.parametrize(
    "line",
    [
        "[1,0]<stdout>:text",
        "[1,0]<stderr>: text",
        "[prterun-host-14422@1,12]<stderr>: text",
        "[1,1]<stderr>:[TensorRT-LLM][ERROR] text",
        "[11/10/2023-06:30:40] [TRT-LLM] [E] text",
        "[11/10/2023-06:30:40] [TRT] [W] text",
        "E1114 09:30:00.910920 6946 model_lifecycle.cc:621] text",
        "I1121 06:48:32.366002 13072 pb_stub.cc:2105]  text",
        "2026-11-21T04:18:12Z E 12194 model_lifecycle.cc:642] text",
        "\x1b[31mtext",
        "text\r",
    ],
)
def test_marks_of_those_who_passed_a_line_on_are_not_part_of_it(line: str) -> None:
    assert without_marks(line) == "text"


def test_indentation_stays() -> None:
    assert without_marks("    assert tp_size % num_head == 0") == (
        "    assert tp_size % num_head == 0"
    )


def test_a_line_with_its_whole_stack_is_cut_around_what_tells() -> None:
    line = "x" * 3000 + " Assertion failed: mpiSize == tp * pp " + "y" * 5000

    found = find_failure([line], where="serve", returncode=1)

    assert found is not None
    assert len(found.line) < 420
    assert found.line.startswith("... x")
    assert found.line.endswith("y ...")
    assert "Assertion failed: mpiSize == tp * pp" in found.line


def row(entry: KnownFailure) -> str:
    cause, hint = (
        re.sub(r"\{(\w+)\}", r"*\1*", text).replace("|", r"\|").replace("{{", "{")
        for text in (entry.cause, entry.hint)
    )
    thread = f"[thread]({entry.thread})" if entry.thread else ""
    return f"| `{entry.code}` | {cause} | {hint} | {thread} |"


def test_troubleshooting_lists_every_entry() -> None:
    shown = PAGE.read_text("utf-8").split("<!-- failures -->\n")[1].split("<!-- /failures -->")[0]

    wanted = ["| Code | Why | What to do | Met by others |", "|---|---|---|---|"]
    assert shown.splitlines() == [*wanted, *(row(entry) for entry in ENTRIES)]


@pytest.mark.parametrize(
    "lines",
    [
        ["x" * 65_000] * 4,
        ["x " * 32_000] * 4,
        [""] * 100_000,
        [" "] * 100_000,
        ["one or more processes exited with non-zero status,", ""] * 5_000,
        ["f: error: unrecognized arguments:" * 2_000] * 4,
        ["CUDA driver version is insufficient " * 2_000] * 4,
    ],
    ids=["long-lines", "many-words", "empty", "blank", "repeated", "usage", "half"],
)
def test_a_log_of_any_shape_is_searched_in_little_time(lines: list[str]) -> None:
    started = time.monotonic()

    find_failure(lines, where="any", returncode=1)

    # A pattern that goes back and forth over such text takes minutes.
    assert time.monotonic() - started < 10
