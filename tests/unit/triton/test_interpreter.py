"""Which Python installations can run the wheel's Triton."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from trtllm_forge.cli.console import error_text
from trtllm_forge.errors import PrerequisiteError
from trtllm_forge.triton.launch.interpreter import Interpreter, check_wheel_runs, this_interpreter

GOOD = Interpreter(
    executable=Path("/srv/.venv/bin/python"),
    version=(3, 11),
    libpython_dir=Path("/usr/lib"),
    system="Linux",
    machine="x86_64",
    glibc=(2, 36),
)


def refusal(interpreter: Interpreter) -> tuple[str, str, str]:
    with pytest.raises(PrerequisiteError) as caught:
        check_wheel_runs(interpreter)
    assert caught.value.exit_code == 3
    return caught.value.what, caught.value.why, caught.value.hint


@pytest.mark.parametrize("version", [(3, 10), (3, 11), (3, 12)])
@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_a_supported_interpreter_is_accepted(version: tuple[int, int], machine: str) -> None:
    supported = replace(GOOD, version=version, machine=machine)
    check_wheel_runs(supported)
    with pytest.raises(PrerequisiteError):
        check_wheel_runs(replace(supported, libpython_dir=None))


def test_an_interpreter_without_shared_libpython_is_refused_with_a_way_out() -> None:
    with pytest.raises(PrerequisiteError) as caught:
        check_wheel_runs(replace(GOOD, libpython_dir=None))

    assert caught.value.exit_code == 3
    assert error_text(caught.value) == (
        "error: /srv/.venv/bin/python has no shared libpython3.11.so.1.0, "
        "and Triton's python backend loads one\n"
        "  why:  this interpreter was built without --enable-shared\n"
        "  try:  uv venv --python-preference only-managed --python 3.11 .venv"
    )


def test_a_pyenv_interpreter_is_told_to_be_built_shared() -> None:
    executable = Path("/home/me/.pyenv/versions/3.11.7/bin/python")

    _, _, hint = refusal(replace(GOOD, libpython_dir=None, executable=executable))

    assert hint == "PYTHON_CONFIGURE_OPTS=--enable-shared pyenv install --force 3.11"


def test_python_3_13_is_refused_because_of_numpy() -> None:
    what, why, _ = refusal(replace(GOOD, version=(3, 13)))

    assert what == "the cpu extra needs Python 3.10 to 3.12, this is 3.13"
    assert why == "its Triton asks for numpy below 2, which has no build for Python 3.13"


@pytest.mark.parametrize(
    ("glibc", "found"), [((2, 31), "2.31"), (None, "another C library")], ids=["old", "musl"]
)
def test_an_older_c_library_is_refused(glibc: tuple[int, int] | None, found: str) -> None:
    what, _, _ = refusal(replace(GOOD, glibc=glibc))

    assert what == f"the cpu extra's Triton needs glibc 2.35 or later, this system has {found}"


@pytest.mark.parametrize(
    ("system", "machine"), [("Darwin", "arm64"), ("Linux", "ppc64le")], ids=["macos", "power"]
)
def test_another_platform_is_refused(system: str, machine: str) -> None:
    what, _, _ = refusal(replace(GOOD, system=system, machine=machine))

    assert what == (
        f"the cpu extra's Triton needs Linux on x86_64 or aarch64, this is {system} on {machine}"
    )


def test_the_libpython_found_for_this_interpreter_exists() -> None:
    interpreter = this_interpreter()

    if interpreter.libpython_dir is not None:
        name = f"libpython{interpreter.release}.so.1.0"
        assert (interpreter.libpython_dir / name).is_file()
