"""Finding a Triton, and putting the wheel's backend folder together."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from importlib import metadata
from typing import TYPE_CHECKING

import pytest

from tests.unit.triton.test_interpreter import GOOD
from trtllm_forge.errors import PrerequisiteError
from trtllm_forge.triton.launch import locate
from trtllm_forge.triton.launch.locate import (
    TritonWheel,
    assemble_backends,
    find_wheel,
    locate_triton,
    wheel_installation,
)

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def wheel(tmp_path: Path) -> TritonWheel:
    server_dir = tmp_path / "site-packages" / "pytriton" / "tritonserver"
    for name in (
        "bin/tritonserver",
        "backends/python/libtriton_python.so",
        "backends/python/triton_python_backend_utils.py",
        "python_backend_stubs/3.11/triton_python_backend_stub",
    ):
        path = server_dir / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    libs_dir = tmp_path / "site-packages" / "nvidia_pytriton.libs"
    return TritonWheel(version="0.7.0", server_dir=server_dir, libs_dir=libs_dir)


def test_a_tritonserver_on_path_comes_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    executable = tmp_path / "tritonserver"
    executable.touch(mode=0o755)
    monkeypatch.setenv("PATH", str(tmp_path))

    found = locate_triton(tmp_path / "cache")

    assert (found.executable, found.origin, found.backend_dir) == (executable, "path", None)
    assert found.env == {}


def test_an_image_comes_before_the_wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    executable = tmp_path / "image" / "tritonserver"
    executable.parent.mkdir()
    executable.touch(mode=0o755)
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setattr(locate, "_IMAGE_EXECUTABLE", executable)

    assert locate_triton(tmp_path / "cache").origin == "image"


def test_no_triton_at_all_is_told_with_the_extra_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def missing(name: str) -> metadata.Distribution:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "distribution", missing)

    with pytest.raises(PrerequisiteError) as caught:
        find_wheel()

    assert caught.value.what == "no Triton found"
    assert caught.value.why.startswith(
        "there is no tritonserver on PATH and none in /opt/tritonserver/bin, "
        "and nvidia-pytriton is not installed in "
    )
    assert caught.value.hint == "pip install 'trtllm-forge[cpu]'"


def test_the_backend_folder_links_to_the_wheels_pieces(wheel: TritonWheel, tmp_path: Path) -> None:
    backend_dir = assemble_backends(wheel, "3.11", tmp_path / "cache")

    texts = {path.name: path.read_text() for path in (backend_dir / "python").iterdir()}
    assert texts == {
        "libtriton_python.so": "backends/python/libtriton_python.so",
        "triton_python_backend_utils.py": "backends/python/triton_python_backend_utils.py",
        "triton_python_backend_stub": "python_backend_stubs/3.11/triton_python_backend_stub",
    }
    assert backend_dir.parent.name.startswith("0.7.0-3.11-")
    assert [path.name for path in (tmp_path / "cache" / "triton").iterdir()] == [
        backend_dir.parent.name
    ]


def test_wheels_in_two_places_have_folders_of_their_own(wheel: TritonWheel, tmp_path: Path) -> None:
    moved_dir = tmp_path / "other" / "tritonserver"
    moved_dir.parent.mkdir()
    first = assemble_backends(wheel, "3.11", tmp_path / "cache")
    wheel.server_dir.rename(moved_dir)

    second = assemble_backends(replace(wheel, server_dir=moved_dir), "3.11", tmp_path / "cache")

    assert first != second
    assert (second / "python" / "libtriton_python.so").exists()


def test_a_damaged_backend_folder_is_made_again(wheel: TritonWheel, tmp_path: Path) -> None:
    link = assemble_backends(wheel, "3.11", tmp_path / "cache") / "python" / "libtriton_python.so"
    link.unlink()

    assemble_backends(wheel, "3.11", tmp_path / "cache")

    assert link.exists()
    assert len(list((tmp_path / "cache" / "triton").iterdir())) == 1


def test_many_at_once_make_one_backend_folder(wheel: TritonWheel, tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        made = [pool.submit(assemble_backends, wheel, "3.11", tmp_path / "c") for _ in range(32)]
        folders = {future.result() for future in made}

    assert len(folders) == 1
    assert len(list((tmp_path / "c" / "triton").iterdir())) == 1


def test_a_wheel_without_a_stub_for_this_python_is_refused(
    wheel: TritonWheel, tmp_path: Path
) -> None:
    with pytest.raises(PrerequisiteError) as caught:
        assemble_backends(wheel, "3.12", tmp_path / "cache")

    assert caught.value.what == (
        "nvidia-pytriton 0.7.0 has no triton_python_backend_stub for Python 3.12"
    )
    assert caught.value.hint == "pip install --force-reinstall --no-deps nvidia-pytriton==0.7.0"


def test_this_interpreter_comes_first_on_both_search_paths(
    wheel: TritonWheel, tmp_path: Path
) -> None:
    environ = {"PATH": "/usr/bin", "LD_LIBRARY_PATH": "/opt/lib"}

    found = wheel_installation(wheel, GOOD, tmp_path / "cache", environ)

    assert found.env == {
        "LD_LIBRARY_PATH": os.pathsep.join(["/usr/lib", str(wheel.libs_dir), "/opt/lib"]),
        "PATH": "/srv/.venv/bin:/usr/bin",
    }
    assert found.executable == wheel.server_dir / "bin" / "tritonserver"


def test_an_empty_search_path_adds_no_empty_entry(wheel: TritonWheel, tmp_path: Path) -> None:
    found = wheel_installation(wheel, GOOD, tmp_path / "cache", {})

    assert found.env["LD_LIBRARY_PATH"] == f"/usr/lib:{wheel.libs_dir}"
    assert found.env["PATH"] == "/srv/.venv/bin"
