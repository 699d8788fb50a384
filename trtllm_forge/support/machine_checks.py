"""Checks of what this machine offers forge, one fact each, with a hint if it is missing.

The checks import, pull and write nothing. Docker is checked through its executor, which on a
machine with a GPU starts one short container from a local image.
"""

from __future__ import annotations

import os
import platform
import shutil
import sys
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from trtllm_forge.errors import PrerequisiteError
from trtllm_forge.machine.executors.docker import DockerExecutor
from trtllm_forge.machine.executors.local import LocalExecutor
from trtllm_forge.machine.process.docker import gpu_request
from trtllm_forge.releases.catalogue import version_key
from trtllm_forge.reporter import SilentReporter
from trtllm_forge.text.quantities import GIB, show_size
from trtllm_forge.triton.launch.interpreter import check_wheel_runs, this_interpreter
from trtllm_forge.triton.launch.locate import find_wheel

if TYPE_CHECKING:
    from trtllm_forge.checkpoint.hub_access import HubAccess
    from trtllm_forge.machine.survey import Machine
    from trtllm_forge.releases.catalogue import Catalogue, Image, Release

State = Literal["ok", "warn", "missing"]

_SMALL_DISK_BYTES = 20 * GIB
_DOCKER_WAIT_S = 10.0
_IMAGE_TRITON = Path("/opt/tritonserver/bin/tritonserver")
# What runtime openvino needs for a build; only the metadata of each is read.
TWIN_PACKAGES = ("openvino-genai", "optimum-intel", "nncf", "torch", "transformers")
NEWEST_PYTHON = (3, 12)


@dataclass(frozen=True, kw_only=True)
class Check:
    """One fact about the machine.

    Attributes:
        name: What was checked.
        state: ``ok``; ``warn`` if only some uses need it; ``missing`` if it is needed.
        detail: What was found.
        hint: A command that helps, or empty.
    """

    name: str
    state: State
    detail: str
    hint: str = ""

    def document(self) -> dict[str, object]:
        """Return the part of the JSON document."""
        return {
            "name": self.name,
            "state": self.state,
            "detail": self.detail,
            "hint": self.hint,
        }


def of_error(name: str, error: PrerequisiteError) -> Check:
    """Return a failed prerequisite as a check."""
    detail = f"{error.what} ({error.why.splitlines()[0]})" if error.why else error.what
    return Check(name=name, state="missing", detail=detail, hint=error.hint)


def check_host(machine: Machine, cache_dir: Path) -> list[Check]:
    """Return what every runtime needs: Python, memory and disk space for the store."""
    python = f"{platform.python_version()} at {sys.executable}"
    memory = f"{show_size(machine.free_memory_bytes)} free, {machine.cpu_count} cores"
    return [
        Check(name="python", state="ok", detail=python),
        Check(name="memory", state="ok", detail=memory),
        _check_disk("cache", cache_dir, "FORGE_CACHE_DIR=/larger/disk forge doctor"),
    ]


def check_gpus(machine: Machine) -> list[Check]:
    """Return one check per visible GPU, or why there is none."""
    gpus, reason = machine.gpus.gpus, machine.gpus.reason
    checks = [
        Check(
            name="gpu",
            state="ok",
            detail=(
                f"{gpu.name}, {show_size(gpu.memory_bytes)}, {gpu.architecture}, "
                f"driver {gpu.driver_version}"
            ),
        )
        for gpu in gpus
    ]
    if not gpus:
        hint = _gpu_hint(reason)
        checks.append(Check(name="gpu", state="missing", detail=f"none: {reason}", hint=hint))
    elif reason:
        checks.append(Check(name="gpu", state="warn", detail=reason, hint="nvidia-smi"))
    return checks


def check_hub(access: HubAccess, *, offline: bool) -> list[Check]:
    """Return whether models can be downloaded; of the token, only whether it is present."""
    token = Check(name="hub token", state="ok", detail="present")
    if access.token is None:
        detail = "none; gated models need one"
        token = Check(name="hub token", state="warn", detail=detail, hint="hf auth login")
    network = Check(name="hub", state="ok", detail=f"{access.endpoint}, not contacted")
    if offline or access.offline:
        network = Check(
            name="hub", state="warn", detail="offline is set: only cached files are available"
        )
    disk = _check_disk("hub cache", access.cache_dir, "HF_HOME=/larger/disk forge doctor")
    return [network, token, disk]


def check_twin_packages() -> Check:
    """Return whether the extra ``cpu`` is installed, on a Python that it supports."""
    versions = {name: _version(name) for name in TWIN_PACKAGES}
    missing = [name for name, version in versions.items() if version is None]
    if not missing:
        found = ", ".join(f"{name} {version}" for name, version in versions.items())
        return Check(name="packages", state="ok", detail=found)
    detail = f"the extra `cpu` is incomplete: {', '.join(missing)} missing"
    hint = "pip install 'trtllm-forge[cpu]'"
    if this_interpreter().version > NEWEST_PYTHON:
        detail += f"; it needs Python 3.10 to 3.12, but this is {platform.python_version()}"
        hint = "python3.12 -m venv .venv"
    return Check(name="packages", state="missing", detail=detail, hint=hint)


def check_twin_server() -> Check:
    """Return whether there is a Triton that can run the twin's Python models."""
    found = triton_executable()
    if found is not None:
        return Check(name="triton", state="ok", detail=str(found))
    interpreter = this_interpreter()
    try:
        wheel = find_wheel()
        check_wheel_runs(interpreter)
    except PrerequisiteError as error:
        return of_error("triton", error)
    detail = f"nvidia-pytriton {wheel.version}"
    stub_dir = wheel.server_dir / "python_backend_stubs" / interpreter.release
    if not stub_dir.is_dir():
        what = f"{detail} has no python backend for Python {interpreter.release}"
        return Check(name="triton", state="missing", detail=what, hint="python3.12 -m venv .venv")
    return Check(
        name="triton", state="ok", detail=f"{detail}, libpython in {interpreter.libpython_dir}"
    )


def triton_executable() -> Path | None:
    """Return the ``tritonserver`` on PATH or of an NGC image, but not the wheel's."""
    found = shutil.which("tritonserver")
    if found:
        return Path(found)
    return _IMAGE_TRITON if os.access(_IMAGE_TRITON, os.X_OK) else None


def check_architectures(machine: Machine, release: Release) -> list[Check]:
    """Return whether the release documents the visible GPUs."""
    found = dict.fromkeys(gpu.architecture for gpu in machine.gpus.gpus)
    checks = []
    for architecture in found:
        known = ", ".join(release.gpu_architectures)
        listed = architecture in release.gpu_architectures
        detail = f"{architecture} is supported by {release.version}: {known}"
        if not listed:
            detail = f"{architecture} is not listed for {release.version}, which has {known}"
        checks.append(Check(name="architecture", state="ok" if listed else "warn", detail=detail))
    return checks


def check_driver(machine: Machine, release: Release, catalogue: Catalogue) -> list[Check]:
    """Return whether the driver is at least the one the release's image was built with."""
    image, gpu = release.image, next(iter(machine.gpus.gpus), None)
    if gpu is None or gpu.driver_version is None or image is None:
        return []
    wanted = image.versions.get("driver", "0")
    said = f"{gpu.driver_version}, image {image.triton_release} was built with {wanted}"
    if version_key(gpu.driver_version) >= version_key(wanted):
        return [Check(name="driver", state="ok", detail=said)]
    said += "; an older one works only on data centre GPUs, through CUDA forward compatibility"
    older = _newest_for(gpu.driver_version, catalogue)
    hint = ""
    if older is not None:
        said += f"; image {older.triton_release} fits this driver"
        hint = f"forge versions {older.trtllm_version}"
    return [Check(name="driver", state="warn", detail=said, hint=hint)]


def check_flow(release: Release) -> list[Check]:
    """Return a failed check if the release builds no engines, else nothing."""
    if "engine" in release.flows:
        return []
    detail = f"TensorRT-LLM {release.version} builds no engines"
    return [Check(name="engine flow", state="missing", detail=detail, hint="forge versions")]


def check_local_tools(
    machine: Machine, catalogue: Catalogue, *, asked: Release | None, examples_dir: str | None
) -> list[Check]:
    """Return whether this environment can run a release's tools and converters."""
    toolchain = machine.toolchain
    executor = LocalExecutor(toolchain=toolchain, release=asked.version if asked else None)
    try:
        executor.require(SilentReporter(), confirm=lambda _: False)
    except PrerequisiteError as error:
        return [of_error("trtllm-build", error)]
    assert toolchain is not None
    version = (toolchain.version or "").partition("+")[0]
    found = f"{toolchain.version or 'an unknown release'} at {toolchain.executable}"
    known = catalogue.releases.get(version)
    if known is None or "engine" not in known.flows:
        detail = f"{found}, for which forge knows no engine flow"
        return [Check(name="trtllm-build", state="missing", detail=detail, hint="forge versions")]
    tools = Check(name="trtllm-build", state="ok", detail=found)
    folder = Path(examples_dir).expanduser() if examples_dir else toolchain.examples_dir
    if folder is not None and folder.is_dir():
        return [tools, Check(name="examples", state="ok", detail=str(folder))]
    return [tools, _no_examples(version, "this environment")]


def check_docker(
    machine: Machine, image: Image | None, cache_dir: Path, *, examples_dir: str | None
) -> list[Check]:
    """Return whether docker runs, has the image, and can give it the GPU if there is one."""
    if image is None:
        detail = "no image carries this release"
        return [Check(name="docker", state="missing", detail=detail, hint="forge versions")]
    executor = DockerExecutor(
        image=image.reference,
        image_bytes=image.size_bytes,
        # Pull nothing and ask nothing.
        offline=True,
        cache_dir=cache_dir,
        gpus=gpu_request(os.environ.get("CUDA_VISIBLE_DEVICES")),
        user=f"{os.getuid()}:{os.getgid()}",
        answer_wait_s=_DOCKER_WAIT_S,
    )
    pull = f"docker pull {image.reference}"
    absent = _refusal(executor, needs_gpu=False)
    if absent is not None and absent.hint != pull:
        return [of_error("docker", absent)]
    checks = [Check(name="docker", state="ok", detail=f"{machine.docker}, its daemon answers")]
    if machine.has_gpu:
        refused = _refusal(executor, needs_gpu=True)
        if refused is not None and refused.hint != pull:
            checks.append(of_error("docker gpu", refused))
        else:
            tried = "not tried without the image" if absent else "a container starts with it"
            checks.append(Check(name="docker gpu", state="ok", detail=tried))
    here = Check(name="image", state="ok", detail=image.reference)
    if absent is not None:
        detail = (
            f"{image.reference} is not on this machine; it is a download of {image.size_gb:.1f} GB"
        )
        here = Check(name="image", state="warn", detail=detail, hint=pull)
    if image.has_examples or (examples_dir and Path(examples_dir).expanduser().is_dir()):
        return [*checks, here]
    return [*checks, here, _no_examples(image.trtllm_version, "the image")]


def check_mpi() -> Check:
    """Return whether there is a launcher for several ranks."""
    found = shutil.which("mpirun") or shutil.which("mpiexec")
    if found:
        return Check(name="mpi", state="ok", detail=found)
    detail = "no mpirun, which engines with several ranks need"
    hint = "sudo apt-get install openmpi-bin"
    return Check(name="mpi", state="warn", detail=detail, hint=hint)


def check_server(release: Release, *, backend: str) -> Check:
    """Return whether there is a Triton whose ``backend`` serves the release's artifacts."""
    found = triton_executable()
    hint = ""
    if release.image is not None:
        run = 'docker run --rm -it --gpus all --ipc host -v "$PWD":/work -w /work'
        hint = f"{run} {release.image.reference} bash"
    if found is None:
        detail = "no tritonserver on PATH or in /opt/tritonserver; an image of the release has one"
        return Check(name="triton", state="missing", detail=detail, hint=hint)
    backend_dir = found.resolve().parent.parent / "backends" / backend
    if not backend_dir.is_dir():
        detail = f"{found} has no backend {backend}: {backend_dir} does not exist"
        return Check(name="triton", state="missing", detail=detail, hint=hint)
    return Check(name="triton", state="ok", detail=f"{found} with backend {backend}")


def check_llm_api(machine: Machine, catalogue: Catalogue) -> Check:
    """Return whether this environment has a TensorRT-LLM with the LLM API."""
    version = machine.toolchain.version if machine.toolchain else None
    if version is None:
        detail = "no TensorRT-LLM in this environment"
        hint = "pip install 'trtllm-forge[trtllm]'"
        return Check(name="tensorrt_llm", state="missing", detail=detail, hint=hint)
    known = catalogue.releases.get(version.partition("+")[0])
    if known is None or "llmapi" not in known.flows:
        detail = f"{version}, for which forge knows no LLM API"
        return Check(name="tensorrt_llm", state="missing", detail=detail, hint="forge versions")
    return Check(name="tensorrt_llm", state="ok", detail=version)


def _no_examples(version: str, place: str) -> Check:
    detail = f"{place} has no converters; set examples_dir to the examples folder of a clone"
    repository = "https://github.com/NVIDIA/TensorRT-LLM"
    hint = f"git clone --depth 1 --branch v{version} {repository}"
    return Check(name="examples", state="missing", detail=detail, hint=hint)


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _gpu_hint(reason: str) -> str:
    if "nvidia-ml-py" in reason:
        return "pip install nvidia-ml-py"
    if "CUDA_VISIBLE_DEVICES" in reason:
        return "unset CUDA_VISIBLE_DEVICES"
    # Without a driver no command helps; otherwise the driver's own tool says more.
    return "" if "there is no NVIDIA driver" in reason else "nvidia-smi"


def _refusal(executor: DockerExecutor, *, needs_gpu: bool) -> PrerequisiteError | None:
    try:
        executor.require(SilentReporter(), confirm=lambda _: False, needs_gpu=needs_gpu)
    except PrerequisiteError as error:
        return error
    return None


def _check_disk(name: str, folder: Path, hint: str) -> Check:
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    free_bytes = shutil.disk_usage(existing).free
    detail = f"{show_size(free_bytes)} free in {folder}"
    if free_bytes < _SMALL_DISK_BYTES:
        return Check(
            name=name, state="warn", detail=f"{detail}, which is little for a model", hint=hint
        )
    return Check(name=name, state="ok", detail=detail)


def _newest_for(driver: str, catalogue: Catalogue) -> Image | None:
    fitting = (
        image
        for image in catalogue.images
        if version_key(image.versions.get("driver", "0")) <= version_key(driver)
    )
    return next(fitting, None)
