"""A stand-in TensorRT-LLM toolchain: executables with the real names, arguments and outputs.

No GPU and no TensorRT-LLM is needed. The tools parse their command line with argument tables of
their own (``tables/``, written from upstream's sources), check what upstream checks, and write
upstream's layouts with a few bytes of weights. ``install_toolchain`` lays one release out::

    TARGET/bin/trtllm-build
    TARGET/image_bin/python3, trtllm-build
    TARGET/examples/<family path of the release>/convert_checkpoint.py
    TARGET/examples/quantization/quantize.py
    TARGET/site/pynvml.py, tensorrt_llm/, tensorrt_llm-1.2.1.dist-info/
    TARGET/stand_in.json     what the tools fall back on when a variable below is not set

Variables, each of which beats ``stand_in.json``:

- ``STAND_IN_JOURNAL``: file that gets one JSON line per start of a tool;
- ``STAND_IN_GPUS``: ``{"driver": "590.44.01", "gpus": [{"name", "memory_bytes", ...}]}``;
- ``STAND_IN_FAIL``: ``STAGE:KIND`` pairs with commas between, as ``failures.py`` lists them.

A tool refuses to start when a secret is in its environment.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import sys
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

TABLES_DIR = Path(__file__).parent / "tables"
RELEASES = ("0.16", "1.2")
# TensorRT of the images that carry these releases (Triton's compatibility matrix).
_TENSORRT = {"0.16": "10.7.0", "1.2": "10.14.1.48"}
_CHECKOUT = Path(__file__).resolve().parents[3]
_SITE_DIR = Path(__file__).parent / "site"


@dataclass(frozen=True, kw_only=True)
class StandInGpu:
    """One GPU as NVML would describe it."""

    name: str = "NVIDIA H100 80GB HBM3"
    memory_bytes: int = 85_520_809_984
    free_bytes: int | None = None
    compute_capability: tuple[int, int] = (9, 0)


H100 = StandInGpu()
A10G = StandInGpu(name="NVIDIA A10G", memory_bytes=24_146_608_128, compute_capability=(8, 6))
T4 = StandInGpu(name="Tesla T4", memory_bytes=16_106_127_360, compute_capability=(7, 5))
B200 = StandInGpu(name="NVIDIA B200", memory_bytes=191_514_017_792, compute_capability=(10, 0))


@dataclass(frozen=True, kw_only=True)
class StandInToolchain:
    """An installed toolchain: where its parts are, and what its tools were started with."""

    release: str
    target_dir: Path
    gpus: tuple[StandInGpu, ...]
    driver: str
    failures: tuple[str, ...] = field(default=())

    @property
    def bin_dir(self) -> Path:
        return self.target_dir / "bin"

    @property
    def image_bin_dir(self) -> Path:
        """Return what comes first on the PATH of an image that stands for the release's."""
        return self.target_dir / "image_bin"

    @property
    def app_dir(self) -> Path:
        """Return what is ``/app`` in such an image: the folder of ``examples``."""
        return self.target_dir

    @property
    def examples_dir(self) -> Path:
        return self.target_dir / "examples"

    @property
    def site_dir(self) -> Path:
        return self.target_dir / "site"

    @property
    def journal_path(self) -> Path:
        return self.target_dir / "journal.jsonl"

    @property
    def trtllm_build_path(self) -> Path:
        return self.bin_dir / "trtllm-build"

    @property
    def quantize_path(self) -> Path:
        return self.target_dir / str(read_table(self.release)["quantize"]["path"])

    def converter_path(self, family: str) -> Path:
        """Return where the release keeps the converter of a family."""
        return self.target_dir / str(read_table(self.release)["converters"][family]["path"])

    def environment(self) -> dict[str, str]:
        """Return the variables that put the toolchain before everything else."""
        return {
            "PATH": _prepend(self.bin_dir, "PATH"),
            "PYTHONPATH": _prepend(self.site_dir, "PYTHONPATH"),
            "STAND_IN_GPUS": _machine(self.gpus, self.driver),
            "STAND_IN_JOURNAL": str(self.journal_path),
            "STAND_IN_FAIL": ",".join(self.failures),
        }

    def failing(self, *failures: str) -> StandInToolchain:
        """Return the toolchain that fails as asked, also where no variable reaches the tools."""
        toolchain = replace(self, failures=failures)
        _write_settings(toolchain)
        return toolchain

    def starts(self, tool: str | None = None) -> list[dict[str, Any]]:
        """Return what was started so far, oldest first, of one tool or of all."""
        if not self.journal_path.exists():
            return []
        lines = self.journal_path.read_text(encoding="utf-8").splitlines()
        entries: list[dict[str, Any]] = [json.loads(line) for line in lines]
        return [entry for entry in entries if tool in (None, entry["tool"])]


def install_toolchain(
    target_dir: Path,
    release: str = "1.2.1",
    *,
    gpus: Sequence[StandInGpu] = (H100,),
    driver: str = "590.44.01",
) -> StandInToolchain:
    """Lay the tools of a release out below ``target_dir``, which is made.

    Args:
        target_dir: Folder for ``bin``, ``examples``, ``site`` and the journal.
        release: Full version that the tools call themselves; 0.16.x or 1.2.x.
        gpus: What the machine has; none for one without a driver.
        driver: Version of the NVIDIA driver.

    Raises:
        ValueError: There is no table for the release.
    """
    table = read_table(release)
    toolchain = StandInToolchain(
        release=release, target_dir=target_dir.resolve(), gpus=tuple(gpus), driver=driver
    )
    for folder in (toolchain.bin_dir, toolchain.site_dir):
        folder.mkdir(parents=True, exist_ok=True)
    _write_settings(toolchain)
    _write_script(toolchain, toolchain.quantize_path, module="quantize")
    for family in table["converters"]:
        path = toolchain.converter_path(family)
        _write_script(toolchain, path, module="convert", family=family)
    _write_console_script(toolchain)
    _write_image_python(toolchain)
    _write_site(toolchain)
    return toolchain


def read_table(release: str) -> dict[str, Any]:
    """Return the argument tables of the line that a release belongs to."""
    table: dict[str, Any] = json.loads(
        (TABLES_DIR / f"{release_line(release)}.json").read_text(encoding="utf-8")
    )
    return table


def release_line(release: str) -> str:
    """Return ``1.2`` for ``1.2.1``."""
    line = ".".join(release.split(".")[:2])
    if line not in RELEASES:
        message = f"no stand-in for TensorRT-LLM {release}: there are {' and '.join(RELEASES)}"
        raise ValueError(message)
    return line


def _write_settings(toolchain: StandInToolchain) -> None:
    settings = {
        "release": toolchain.release,
        "journal": str(toolchain.journal_path),
        "machine": json.loads(_machine(toolchain.gpus, toolchain.driver)),
        "fail": ",".join(toolchain.failures),
    }
    path = toolchain.target_dir / "stand_in.json"
    path.write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")


def _write_script(
    toolchain: StandInToolchain, path: Path, *, module: str, family: str | None = None
) -> None:
    arguments = [repr(str(toolchain.target_dir / "stand_in.json"))]
    if family is not None:
        arguments.append(repr(family))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(_code(module, arguments), encoding="utf-8")


def _write_console_script(toolchain: StandInToolchain) -> None:
    """Write ``trtllm-build`` as pip does where the interpreter's path is long or has spaces."""
    path = toolchain.trtllm_build_path
    code = _code("compile", [repr(str(toolchain.target_dir / "stand_in.json"))])
    python = shlex.quote(sys.executable)
    path.write_text(f"#!/bin/sh\n'''exec' {python} \"$0\" \"$@\"\n' '''\n{code}", encoding="utf-8")
    path.chmod(0o755)


def _write_image_python(toolchain: StandInToolchain) -> None:
    """Write a folder that can stand for the PATH of an image: its python3, and trtllm-build."""
    folder = toolchain.image_bin_dir
    folder.mkdir(exist_ok=True)
    python_path = folder / "python3"
    python_path.write_text(
        f'#!/bin/sh\nexec {shlex.quote(sys.executable)} "$@"\n', encoding="utf-8"
    )
    python_path.chmod(0o755)
    shutil.copy(toolchain.trtllm_build_path, folder / "trtllm-build")


def _code(module: str, arguments: Sequence[str]) -> str:
    return (
        f"import sys\n\nsys.path.insert(0, {str(_CHECKOUT)!r})\n"
        f"from tests.stand_ins.toolchain.{module} import main\n\n"
        f"main({', '.join(arguments)})\n"
    )


def _write_site(toolchain: StandInToolchain) -> None:
    """Write what is read of an installed TensorRT-LLM without importing it."""
    shutil.copyfile(_SITE_DIR / "pynvml.py", toolchain.site_dir / "pynvml.py")
    versions = {
        "tensorrt_llm": toolchain.release,
        "tensorrt": _TENSORRT[release_line(toolchain.release)],
    }
    for name, version in versions.items():
        info_dir = toolchain.site_dir / f"{name}-{version}.dist-info"
        info_dir.mkdir(exist_ok=True)
        (info_dir / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n", encoding="utf-8"
        )
    package_dir = toolchain.site_dir / "tensorrt_llm"
    package_dir.mkdir(exist_ok=True)
    (package_dir / "__init__.py").write_text(
        'message = "stand-in: importing tensorrt_llm takes a minute and a GPU; read its metadata"\n'
        "raise ImportError(message)\n",
        encoding="utf-8",
    )


def _machine(gpus: Sequence[StandInGpu], driver: str) -> str:
    return json.dumps({"driver": driver, "gpus": [asdict(gpu) for gpu in gpus]})


def _prepend(folder: Path, name: str) -> str:
    before = os.environ.get(name)
    return f"{folder}{os.pathsep}{before}" if before else str(folder)
