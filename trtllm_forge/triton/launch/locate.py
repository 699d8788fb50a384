"""Finds a Triton to run: on PATH, in an NGC image, or inside the nvidia-pytriton wheel.

``serving.plan.source`` decides which of them, or a container, is used.

The wheel contains a complete server, but its python backend is in pieces, with one stub per
Python release. They are assembled from links in a folder below the cache::

    <cache>/triton/<wheel version>-<python release>-<8 hex of where the wheel is>/backends/python/

What the wheel's server needs around it: this interpreter's own libpython before any other on
``LD_LIBRARY_PATH`` (else a system's libpython is picked up and breaks with an undefined
symbol), then the wheel's libraries, and ``python3`` on ``PATH`` being this interpreter, by
which the stub finds the installed packages.
"""

from __future__ import annotations

import os
import shlex
import shutil
import sys
import tempfile
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from trtllm_forge.errors import PrerequisiteError
from trtllm_forge.files.digest import sha256_text
from trtllm_forge.triton.launch.interpreter import Interpreter, check_wheel_runs, this_interpreter

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

Origin = Literal["path", "image", "wheel", "docker"]

_IMAGE_EXECUTABLE = Path("/opt/tritonserver/bin/tritonserver")
_WHEEL = "nvidia-pytriton"
_BACKEND_FILES = ("libtriton_python.so", "triton_python_backend_utils.py")
_STUB = "triton_python_backend_stub"


@dataclass(frozen=True, kw_only=True)
class TritonInstallation:
    """A Triton that can be started.

    Attributes:
        executable: The ``tritonserver`` to run.
        origin: ``path``, ``image`` (an NGC image's own folder), ``wheel``, or ``docker``: a
            container of the image that ``label`` names.
        label: Its name in messages.
        backend_dir: The folder of backends, if not the server's default.
        env: Variables to set on top of forge's own environment.
    """

    executable: Path
    origin: Origin
    label: str
    backend_dir: Path | None
    env: Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class TritonWheel:
    """The folders of an installed nvidia-pytriton."""

    version: str
    server_dir: Path
    libs_dir: Path


def locate_triton(cache_dir: Path) -> TritonInstallation:
    """Return the Triton to start.

    Raises:
        PrerequisiteError: None is installed, or the wheel's cannot run under this interpreter.
    """
    found = shutil.which("tritonserver")
    if found:
        path = Path(found)
        return TritonInstallation(
            executable=path, origin="path", label=str(path), backend_dir=None, env={}
        )
    if os.access(_IMAGE_EXECUTABLE, os.X_OK):
        return image_installation()
    return locate_wheel(cache_dir)


def locate_wheel(cache_dir: Path) -> TritonInstallation:
    """Return the Triton of the installed wheel, ignoring others.

    Raises:
        PrerequisiteError: It is missing or cannot run under this interpreter.
    """
    interpreter = this_interpreter()
    check_wheel_runs(interpreter)
    return wheel_installation(find_wheel(), interpreter, cache_dir, os.environ)


def has_whole_triton() -> bool:
    """Return whether there is a Triton on PATH or of an NGC image, besides the wheel's."""
    return shutil.which("tritonserver") is not None or os.access(_IMAGE_EXECUTABLE, os.X_OK)


def image_installation() -> TritonInstallation:
    """Return the Triton of an NGC image, whether or not this is one."""
    return TritonInstallation(
        executable=_IMAGE_EXECUTABLE,
        origin="image",
        label=str(_IMAGE_EXECUTABLE),
        backend_dir=None,
        env={},
    )


def container_installation(image: str) -> TritonInstallation:
    """Return the Triton in a container of an image."""
    return replace(image_installation(), origin="docker", label=image)


def named_installation(named: Path) -> TritonInstallation:
    """Return the Triton at a path: the executable, or a folder that holds ``bin/tritonserver``.

    A folder's own backends go with it; Triton itself looks for them in /opt/tritonserver.

    Raises:
        PrerequisiteError: It is missing or not executable.
    """
    executable = (named / "bin" / "tritonserver" if named.is_dir() else named).absolute()
    if not executable.is_file():
        what = f"--triton {named}: there is no {executable}"
        why = "expected: a tritonserver, or a folder that holds bin/tritonserver"
        raise PrerequisiteError(what, why=why)
    if not os.access(executable, os.X_OK):
        what = f"--triton {named}: {executable} is not executable"
        raise PrerequisiteError(what, hint=f"chmod +x {shlex.quote(str(executable))}")
    backend_dir = executable.parent.parent / "backends"
    is_own = executable != _IMAGE_EXECUTABLE and backend_dir.is_dir()
    return TritonInstallation(
        executable=executable,
        origin="path",
        label=str(executable),
        backend_dir=backend_dir if is_own else None,
        env={},
    )


def find_wheel() -> TritonWheel:
    """Return the installed nvidia-pytriton.

    Raises:
        PrerequisiteError: It is not installed.
    """
    try:
        distribution = metadata.distribution(_WHEEL)
    except metadata.PackageNotFoundError as error:
        what = "no Triton found"
        why = (
            "there is no tritonserver on PATH and none in /opt/tritonserver/bin, "
            f"and {_WHEEL} is not installed in {sys.prefix}"
        )
        raise PrerequisiteError(what, why=why, hint="pip install 'trtllm-forge[cpu]'") from error
    return TritonWheel(
        version=distribution.version,
        server_dir=Path(str(distribution.locate_file("pytriton/tritonserver"))),
        libs_dir=Path(str(distribution.locate_file("nvidia_pytriton.libs"))),
    )


def wheel_installation(
    wheel: TritonWheel, interpreter: Interpreter, cache_dir: Path, environ: Mapping[str, str]
) -> TritonInstallation:
    """Return the wheel's server, with its assembled backend folder and environment.

    Raises:
        PrerequisiteError: The wheel has no stub for this Python, or no shared libpython exists.
    """
    library_dir = interpreter.libpython_dir
    if library_dir is None:  # callers run check_wheel_runs first, which has a better message
        what = f"{interpreter.executable} has no shared libpython"
        raise PrerequisiteError(what)
    backend_dir = assemble_backends(wheel, interpreter.release, cache_dir)
    libraries = (str(library_dir), str(wheel.libs_dir), environ.get("LD_LIBRARY_PATH", ""))
    folders = (str(interpreter.executable.parent), environ.get("PATH", ""))
    return TritonInstallation(
        executable=wheel.server_dir / "bin" / "tritonserver",
        origin="wheel",
        label=f"the Triton of {_WHEEL} {wheel.version}",
        backend_dir=backend_dir,
        env={"LD_LIBRARY_PATH": _joined(libraries), "PATH": _joined(folders)},
    )


def assemble_backends(wheel: TritonWheel, python_release: str, cache_dir: Path) -> Path:
    """Return a folder of backends whose ``python`` links to the wheel's pieces.

    Built beside its place and moved by one rename, so that two processes can do it at once.

    Raises:
        PrerequisiteError: A piece is missing from the wheel.
    """
    targets = {name: wheel.server_dir / "backends" / "python" / name for name in _BACKEND_FILES}
    targets[_STUB] = wheel.server_dir / "python_backend_stubs" / python_release / _STUB
    for target in targets.values():
        if not target.exists():
            what = f"{_WHEEL} {wheel.version} has no {target.name} for Python {python_release}"
            hint = f"pip install --force-reinstall --no-deps {_WHEEL}=={wheel.version}"
            raise PrerequisiteError(what, why=f"{target} is missing", hint=hint)
    place = sha256_text(str(wheel.server_dir))[:8]
    root = cache_dir / "triton" / f"{wheel.version}-{python_release}-{place}"
    if not _is_assembled(root, targets):
        root.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=f".{root.name}.", dir=root.parent))
        try:
            folder = scratch / "backends" / "python"
            folder.mkdir(parents=True)
            for name, target in targets.items():
                (folder / name).symlink_to(target)
            _move_into_place(scratch, root, targets)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    return root / "backends"


def _is_assembled(root: Path, targets: Mapping[str, Path]) -> bool:
    folder = root / "backends" / "python"
    try:
        return all((folder / name).readlink() == target for name, target in targets.items())
    except OSError:
        return False


def _move_into_place(scratch: Path, root: Path, targets: Mapping[str, Path]) -> None:
    """Rename ``scratch`` to ``root``; a second process finds the same links there."""
    while True:
        try:
            scratch.rename(root)
        except OSError:
            if not root.exists():
                raise
        if _is_assembled(root, targets):
            return
        damaged = scratch.with_name(f"{scratch.name}.damaged")
        root.rename(damaged)
        shutil.rmtree(damaged, ignore_errors=True)


def _joined(parts: Iterable[str]) -> str:
    return os.pathsep.join(part for part in parts if part)
