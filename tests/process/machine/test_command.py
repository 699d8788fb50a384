"""A stage's command, run as a real child."""

from __future__ import annotations

import errno
import json
import sys
from typing import TYPE_CHECKING

import pytest

from tests.process.recording import RecordingReporter
from trtllm_forge.errors import BuildError, ForgeError
from trtllm_forge.machine.process.command import Command, run_command

if TYPE_CHECKING:
    from pathlib import Path


def test_child_has_forges_environment_but_for_the_token_of_the_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "KEPT"):
        monkeypatch.setenv(name, "hf_s3cret")
    code = "import json, os; print(json.dumps(dict(os.environ)))"
    reporter = RecordingReporter()

    run_command(
        Command(argv=(sys.executable, "-c", code), env={"ADDED": "1"}),
        source="compile",
        error=BuildError,
        log_path=tmp_path / "compile.log",
        reporter=reporter,
    )

    ((_, line),) = reporter.lines
    environment = json.loads(line)
    assert (environment["KEPT"], environment["ADDED"]) == ("hf_s3cret", "1")
    assert [name for name in environment if name.startswith("H") and "TOKEN" in name] == []


def test_child_that_finds_the_disk_full_ends_as_a_full_disk(tmp_path: Path) -> None:
    code = "open('/dev/full', 'wb', buffering=0).write(b'x')"
    with pytest.raises(OSError, match="No space left on device") as caught:
        run_command(
            Command(argv=(sys.executable, "-c", code)),
            source="compile",
            error=BuildError,
            log_path=tmp_path / "compile.log",
            reporter=RecordingReporter(),
        )
    assert caught.value.errno == errno.ENOSPC


def fail(tmp_path: Path, code: str, *, source: str = "compile") -> ForgeError:
    """Return the error that a child ends in; it shows as ``tool`` in it."""
    with pytest.raises(ForgeError) as caught:
        run_command(
            Command(argv=(sys.executable, "-c", code), inner_argv=("tool", "--flag", "a b")),
            source=source,
            error=BuildError,
            log_path=tmp_path / "tool.log",
            reporter=RecordingReporter(),
        )
    assert caught.value.exit_code == 5
    assert caught.value.log_path == tmp_path / "tool.log"
    return caught.value


def printing(*lines: str, ending: str = "raise SystemExit(1)") -> str:
    return f"import os, signal, sys; sys.stderr.write({chr(10).join(lines)!r}); {ending}"


@pytest.mark.parametrize(
    ("source", "code", "wanted"),
    [
        pytest.param(
            "compile",
            printing("loading", ending="sys.stderr.flush(); os.kill(os.getpid(), signal.SIGKILL)"),
            (
                "compile: signal SIGKILL: tool --flag 'a b'",
                "something killed it; most often that is the kernel running out of memory",
                "dmesg --level err,warn | grep -i -E 'oom|killed process'",
            ),
            id="killed",
        ),
        pytest.param(
            "convert",
            printing("docker: the container was killed", ending="raise SystemExit(137)"),
            (
                "convert: exit code 137: tool --flag 'a b'",
                "something killed it; most often that is the kernel running out of memory",
                "dmesg --level err,warn | grep -i -E 'oom|killed process'",
            ),
            id="killed-in-a-container",
        ),
        pytest.param(
            "compile",
            printing(
                "[1,0]<stderr>:[11/10/2023-06:30:40] [TRT] [E] 2: [virtualMemoryBuffer.cpp::"
                "resizePhysical::140] Error Code 2: OutOfMemory (no further information)",
                "[1,0]<stderr>:Traceback",
            ),
            (
                "compile: exit code 1: tool --flag 'a b'",
                "TensorRT found too little free GPU memory\n"
                "2: [virtualMemoryBuffer.cpp::resizePhysical::140] "
                "Error Code 2: OutOfMemory (no further information)",
                "nvidia-smi shows what else uses it; then try a smaller --max-batch-size or "
                "--max-num-tokens, --int4, or more GPUs with --tp",
            ),
            id="gpu-memory",
        ),
        pytest.param(
            "convert",
            printing(
                "Traceback (most recent call last):",
                "ValueError: GPTQ with desc_act=True is not implemented!",
            ),
            (
                "convert: exit code 1: tool --flag 'a b'",
                "the GPTQ checkpoint was quantised in activation order (desc_act), "
                "which the converter does not support\n"
                "ValueError: GPTQ with desc_act=True is not implemented!",
                "use a GPTQ checkpoint whose quantization_config has desc_act false, "
                "or the unquantised one with --int4-awq",
            ),
            id="desc-act",
        ),
        pytest.param(
            "compile",
            printing(
                'docker: Error response from daemon: could not select device driver "" with '
                "capabilities: [[gpu]].",
                ending="raise SystemExit(125)",
            ),
            (
                "compile: exit code 125: tool --flag 'a b'",
                "docker has no NVIDIA runtime\n"
                'docker: Error response from daemon: could not select device driver "" with '
                "capabilities: [[gpu]].",
                "install nvidia-container-toolkit, then sudo nvidia-ctk runtime configure "
                "--runtime=docker && sudo systemctl restart docker",
            ),
            id="docker",
        ),
        pytest.param(
            "compile",
            printing("trtllm-build: error: unrecognized arguments: --old 1", ending="sys.exit(2)"),
            (
                "compile: exit code 2: tool --flag 'a b'",
                "trtllm-build of this release has no --old 1\n"
                "trtllm-build: error: unrecognized arguments: --old 1",
                "trtllm-build --help; the installed release is not the one that was planned for",
            ),
            id="flag",
        ),
    ],
)
def test_known_failure_says_its_cause_and_what_to_do(
    tmp_path: Path, source: str, code: str, wanted: tuple[str, str, str]
) -> None:
    error = fail(tmp_path, code, source=source)

    assert (error.what, error.why, error.hint) == wanted


def test_telling_line_is_found_before_hundreds_of_lines_of_stack(tmp_path: Path) -> None:
    code = printing("Assertion failed: Unsupported architecture", *("frame",) * 3000)

    error = fail(tmp_path, code)

    assert error.why == (
        "this TensorRT-LLM release has no attention kernels for this GPU\n"
        "Assertion failed: Unsupported architecture"
    )


def test_unknown_failure_shows_the_last_lines(tmp_path: Path) -> None:
    error = fail(tmp_path, printing(*(f"line {number}" for number in range(20)), ""))

    assert (error.what, error.why, error.hint) == (
        "compile: exit code 1: tool --flag 'a b'",
        "\n".join(f"line {number}" for number in range(12, 20)),
        "",
    )


def test_silent_failure_says_that_nothing_was_printed(tmp_path: Path) -> None:
    error = fail(tmp_path, "raise SystemExit(3)")

    assert (error.what, error.why, error.hint) == (
        "compile: exit code 3: tool --flag 'a b'",
        "it printed nothing",
        "",
    )


def test_full_shared_memory_is_not_a_full_disk(tmp_path: Path) -> None:
    line = "It appears as if there is not enough space for /dev/shm/vader_segment.host.0"
    other = "ftruncate of /dev/shm/x: No space left on device"

    error = fail(tmp_path, printing(line, other))

    assert error.hint == "df -h /dev/shm; give a container a larger --shm-size"
