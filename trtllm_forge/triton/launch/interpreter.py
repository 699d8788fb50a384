"""Checks the running Python against the needs of the wheel's Triton.

Its python backend loads the interpreter as a shared library, was built against glibc 2.35, and
requires numpy below 2, which has no build for Python 3.13.
"""

from __future__ import annotations

import os
import platform
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path

from trtllm_forge.errors import PrerequisiteError

_MACHINES = ("x86_64", "aarch64")
_GLIBC_NEEDED = (2, 35)
_OLDEST, _NEWEST = (3, 10), (3, 12)
_DOCKER_HINT = 'docker run --rm -it -v "$PWD":/src -w /src python:3.12 bash'


@dataclass(frozen=True, kw_only=True)
class Interpreter:
    """The facts about one Python installation.

    Attributes:
        executable: Its path, as started: inside a virtual environment where there is one.
        version: Major and minor number.
        libpython_dir: The folder that holds its shared libpython, or None without one.
        system: ``Linux`` or another kernel's name.
        machine: The processor architecture, ``x86_64`` for example.
        glibc: The C library's version, or None where it is not glibc.
    """

    executable: Path
    version: tuple[int, int]
    libpython_dir: Path | None
    system: str
    machine: str
    glibc: tuple[int, int] | None

    @property
    def release(self) -> str:
        """Return the version as text, such as ``3.12``."""
        return ".".join(map(str, self.version))


def this_interpreter() -> Interpreter:
    """Return the facts about the running Python."""
    version = sys.version_info[:2]
    return Interpreter(
        executable=Path(sys.executable),
        version=version,
        libpython_dir=_find_libpython(f"libpython{version[0]}.{version[1]}.so.1.0"),
        system=platform.system(),
        machine=platform.machine(),
        glibc=_glibc_version(),
    )


def check_wheel_runs(interpreter: Interpreter) -> None:
    """Refuse a machine or an interpreter on which the wheel's Triton cannot work.

    Raises:
        PrerequisiteError: It does not fit; names what was found and what is needed.
    """
    if interpreter.system != "Linux" or interpreter.machine not in _MACHINES:
        what = (
            f"the cpu extra's Triton needs Linux on {' or '.join(_MACHINES)}, "
            f"this is {interpreter.system} on {interpreter.machine}"
        )
        raise PrerequisiteError(what, hint=_DOCKER_HINT)
    if interpreter.glibc is None or interpreter.glibc < _GLIBC_NEEDED:
        found = ".".join(map(str, interpreter.glibc)) if interpreter.glibc else "another C library"
        what = f"the cpu extra's Triton needs glibc 2.35 or later, this system has {found}"
        raise PrerequisiteError(what, hint=_DOCKER_HINT)
    if not _OLDEST <= interpreter.version <= _NEWEST:
        what = f"the cpu extra needs Python 3.10 to 3.12, this is {interpreter.release}"
        why = "its Triton asks for numpy below 2, which has no build for Python 3.13"
        raise PrerequisiteError(what, why=why, hint="python3.12 -m venv .venv")
    if interpreter.libpython_dir is None:
        what = (
            f"{interpreter.executable} has no shared libpython{interpreter.release}.so.1.0, "
            "and Triton's python backend loads one"
        )
        why = "this interpreter was built without --enable-shared"
        hint = (
            f"PYTHON_CONFIGURE_OPTS=--enable-shared pyenv install --force {interpreter.release}"
            if ".pyenv" in interpreter.executable.resolve().parts
            else f"uv venv --python-preference only-managed --python {interpreter.release} .venv"
        )
        raise PrerequisiteError(what, why=why, hint=hint)


def _find_libpython(name: str) -> Path | None:
    """Return the folder that holds the interpreter's shared library.

    ``LIBDIR`` is the configured folder. Debian puts it one folder deeper, and relocatable
    interpreters keep it beside their own ``bin``.
    """
    library_dir = sysconfig.get_config_var("LIBDIR") or ""
    multiarch = sysconfig.get_config_var("MULTIARCH") or ""
    candidates = (
        Path(library_dir),
        Path(library_dir) / multiarch,
        Path(sys.base_prefix) / "lib",
        Path(sys.executable).resolve().parent.parent / "lib",
    )
    return next((folder for folder in candidates if (folder / name).is_file()), None)


def _glibc_version() -> tuple[int, int] | None:
    try:
        text = os.confstr("CS_GNU_LIBC_VERSION") or ""
    except (ValueError, OSError, AttributeError):
        return None
    words = text.split()
    if len(words) != 2 or words[0] != "glibc":
        return None
    major, _, minor = words[1].partition(".")
    return int(major), int(minor.split(".")[0])
