"""The wheel carries what forge needs at run time, and works away from the checkout."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from trtllm_forge.files.resources import data_path, templates_dir

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def wheel_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    output_dir = tmp_path_factory.mktemp("dist")
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", output_dir, ROOT],
        check=True,
        capture_output=True,
    )
    return next(output_dir.glob("*.whl"))


def test_the_wheel_holds_every_module(wheel_path: Path) -> None:
    modules = {path.relative_to(ROOT).as_posix() for path in (ROOT / "trtllm_forge").rglob("*.py")}
    assert "trtllm_forge/build/build.py" in modules  # a name that tools tend to leave out
    assert modules <= set(zipfile.ZipFile(wheel_path).namelist())


def test_the_wheel_holds_every_template_and_data_file(wheel_path: Path) -> None:
    names = set(zipfile.ZipFile(wheel_path).namelist())
    templates = {
        f"trtllm_forge/_templates/{path.relative_to(templates_dir()).as_posix()}"
        for path in templates_dir().rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert templates <= names
    assert "trtllm_forge/data/sample/model.safetensors" in names
    assert "trtllm_forge/data/presets.yaml" in names
    data_files = {
        f"trtllm_forge/data/{path.relative_to(data_path('')).as_posix()}"
        for path in data_path("").rglob("*")
        if path.is_file()
    }
    assert "trtllm_forge/data/bench/report.html.jinja" in data_files
    assert data_files <= names


def test_an_installed_wheel_renders_away_from_the_checkout(
    wheel_path: Path, tmp_path: Path
) -> None:
    site_dir = tmp_path / "site"
    zipfile.ZipFile(wheel_path).extractall(site_dir)
    output_dir = tmp_path / "rendered"
    done = subprocess.run(
        [
            *(sys.executable, "-m", "trtllm_forge"),
            *("render", "sample", "--runtime", "trtllm", "--output", str(output_dir)),
        ],
        env={**os.environ, "PYTHONPATH": str(site_dir)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert (output_dir / "ensemble" / "config.pbtxt").exists()
