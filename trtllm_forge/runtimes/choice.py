"""Choose runtime, release and executor, each with a one-line reason."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from trtllm_forge.config.command import build_command, other_runtime_command
from trtllm_forge.errors import ConfigError
from trtllm_forge.machine.executors.choice import choose_executor
from trtllm_forge.machine.gpu import named_gpu
from trtllm_forge.machine.process.docker import Mount
from trtllm_forge.releases.catalogue import FLOW_NAMES, read_catalogue

if TYPE_CHECKING:
    from collections.abc import Sequence

    from trtllm_forge.checkpoint.architectures import Architecture
    from trtllm_forge.config.schema import ForgeConfig
    from trtllm_forge.config.settings import Settings
    from trtllm_forge.machine.executors import Executor
    from trtllm_forge.machine.gpu import Gpu
    from trtllm_forge.machine.survey import Machine
    from trtllm_forge.releases.catalogue import Catalogue, Flow, Image, Release
    from trtllm_forge.runtimes import Runtime, RuntimeName
    from trtllm_forge.runtimes.trtllm.tools import Tools

_FLOW_OF: dict[RuntimeName, Flow] = {"trtllm": "engine", "llmapi": "llmapi"}
_RUNTIME_OF: dict[Flow, RuntimeName] = {"engine": "trtllm", "llmapi": "llmapi"}


@dataclass(frozen=True, kw_only=True)
class RuntimeChoice:
    """The chosen runtime, release and executor.

    Attributes:
        runtime: What executes the artifact.
        release: The TensorRT-LLM release; for the twin, the release whose tensors it has.
        image: The Triton image of the release; None for the twin or if there is no image.
        executor: ``local`` or ``docker``; None if no TensorRT-LLM tool runs.
        gpu: The GPU the artifact is for: the named one, or else the first visible one.
        reasons: The reasons, one line each.
    """

    runtime: Runtime
    release: Release
    image: Image | None
    executor: str | None
    gpu: Gpu | None
    reasons: tuple[str, ...]


def choose_runtime(
    config: ForgeConfig,
    architecture: Architecture,
    machine: Machine,
    settings: Settings,
    *,
    weights_bytes: int | None = None,
    checkpoint_dir: Path | None = None,
) -> RuntimeChoice:
    """Return the runtime and release that serve the model, and where the tools run.

    Args:
        config: The configuration.
        architecture: The model's architecture.
        machine: This machine.
        settings: Where forge keeps its files.
        weights_bytes: Size of the checkpoint's weights, None if unknown.
        checkpoint_dir: The user's own checkpoint folder, None for a model on the Hub.

    Raises:
        ConfigError: The release, the runtime and the architecture do not fit together; the
            message names the nearest combination that does.
    """
    catalogue = read_catalogue(config.releases_file)
    gpu = named_gpu(config.gpu) if config.gpu else next(iter(machine.gpus.gpus), None)
    name, reason = _choose_name(config, architecture, machine)
    if name == "openvino":
        return _twin(config, catalogue, reason)
    release, why = _choose_release(config, architecture, machine, catalogue, _FLOW_OF[name])
    if name == "llmapi":
        return _llm_api(release, gpu, (reason, why))
    image = release.image
    chosen = choose_executor(
        config.executor,
        image=image.reference if image else None,
        image_bytes=image.size_bytes if image else None,
        offline=config.offline,
        cache_dir=settings.cache_dir,
        release=release.version,
        command_with_image="" if image else _with_image(config, architecture, catalogue, release),
    )
    mounts = _mounts(settings, checkpoint_dir) if chosen.executor.name == "docker" else ()
    tools, has_examples = _tools(config, release, chosen.executor, machine, mounts, gpu)
    from trtllm_forge.runtimes.trtllm import TrtLlmRuntime

    runtime = TrtLlmRuntime(
        architecture=architecture,
        tools=tools,
        weights_bytes=weights_bytes,
        cache_dir=settings.cache_dir,
        has_examples=has_examples,
        own_architecture=machine.gpus.gpus[0].architecture if machine.has_gpu else "",
    )
    return RuntimeChoice(
        runtime=runtime,
        release=release,
        image=image,
        executor=chosen.executor.name,
        gpu=gpu,
        reasons=(reason, why, chosen.reason),
    )


def _twin(config: ForgeConfig, catalogue: Catalogue, reason: str) -> RuntimeChoice:
    from trtllm_forge.runtimes.openvino import OpenVinoRuntime

    version = config.trtllm_version
    release = catalogue.find(version) if version else _newest(catalogue, "engine")
    if "engine" not in release.flows:
        # The twin has an engine's tensors, whatever the model.
        raise _without_flow(config, catalogue, release, "engine", runtime="openvino")
    return RuntimeChoice(
        runtime=OpenVinoRuntime(),
        release=release,
        image=None,
        executor=None,
        gpu=None,
        reasons=(reason,),
    )


def _llm_api(release: Release, gpu: Gpu | None, reasons: tuple[str, ...]) -> RuntimeChoice:
    from trtllm_forge.runtimes.llmapi import LlmApiRuntime

    return RuntimeChoice(
        runtime=LlmApiRuntime(gpu_architecture=gpu.architecture if gpu else ""),
        release=release,
        image=release.image,
        executor=None,
        gpu=gpu,
        reasons=reasons,
    )


def require_known_release(config: ForgeConfig) -> None:
    """Raise ``ConfigError`` if the requested release is unknown."""
    if config.trtllm_version is None:
        return
    catalogue = read_catalogue(config.releases_file)
    try:
        catalogue.find(config.trtllm_version)
    except ConfigError as error:
        # The catalogue's hint names the nearest release, but not the other options.
        nearest = error.hint.rpartition(" ")[2]
        if config.runtime != "auto":
            flow = _FLOW_OF.get(config.runtime, "engine")
            fitting = [r for r in catalogue.releases.values() if flow in r.flows]
            nearest = _nearest(fitting, config.trtllm_version).version
        hint = build_command(config, trtllm_version=nearest)
        raise ConfigError(error.what, why=error.why, hint=hint) from error


def _choose_name(
    config: ForgeConfig, architecture: Architecture, machine: Machine
) -> tuple[RuntimeName, str]:
    if config.runtime != "auto":
        return config.runtime, f"runtime {config.runtime}: requested"
    if machine.can_build_engines:
        count = len(machine.gpus.gpus)
        gpus = f"found {count} GPU{'s' if count > 1 else ''} and a TensorRT-LLM toolchain"
        if architecture.engine_flow:
            return "trtllm", f"runtime trtllm: {gpus}"
        if architecture.pytorch_backend:
            why = f"{architecture.name} has no engine flow"
            return "llmapi", f"runtime llmapi: {gpus}, and {why}"
    if machine.has_gpu:
        why = "a GPU is visible, but neither trtllm-build nor docker was found"
        return "openvino", f"runtime openvino: {why}"
    return "openvino", "runtime openvino: no NVIDIA GPU is visible, so the CPU twin is built"


def _choose_release(
    config: ForgeConfig,
    architecture: Architecture,
    machine: Machine,
    catalogue: Catalogue,
    flow: Flow,
) -> tuple[Release, str]:
    wanted = config.trtllm_version
    if wanted is None:
        release, why = _unasked_release(config, machine, catalogue, flow)
    else:
        release, why = catalogue.find(wanted), "requested"
    if architecture.has_flow(flow, release):
        shown = f", its newest image is {release.image.triton_release}" if release.image else ""
        return release, f"TensorRT-LLM {release.version}: {why}{shown}"
    fitting = [r for r in catalogue.releases.values() if architecture.has_flow(flow, r)]
    if flow not in release.flows and fitting:
        raise _without_flow(config, catalogue, release, flow, fitting=fitting)
    since = architecture.engine_since if flow == "engine" else architecture.pytorch_since
    has_it = architecture.engine_flow if flow == "engine" else architecture.pytorch_backend
    if has_it and since:
        what = (
            f"{FLOW_NAMES[flow]} of TensorRT-LLM {release.version} does not support "
            f"{architecture.name}"
        )
        hint = build_command(config, runtime=_RUNTIME_OF[flow], trtllm_version=fitting[0].version)
        raise ConfigError(what, why=f"it is supported since {since}", hint=hint)
    raise _no_flow(config, architecture, catalogue, flow)


def _unasked_release(
    config: ForgeConfig, machine: Machine, catalogue: Catalogue, flow: Flow
) -> tuple[Release, str]:
    installed = machine.toolchain.version if machine.toolchain else None
    version = (installed or "").partition("+")[0]
    if config.executor != "docker" and flow in _flows(catalogue, version):
        return catalogue.releases[version], "installed here"
    return _newest(catalogue, flow), f"the newest with {FLOW_NAMES[flow]}"


def _no_flow(
    config: ForgeConfig, architecture: Architecture, catalogue: Catalogue, flow: Flow
) -> ConfigError:
    what = f"no release of TensorRT-LLM supports {architecture.name} through {FLOW_NAMES[flow]}"
    other: Flow = "llmapi" if flow == "engine" else "engine"
    fitting = [r for r in catalogue.releases.values() if architecture.has_flow(other, r)]
    with_image = [release for release in fitting if release.image]
    if not fitting:
        return ConfigError(what, hint=other_runtime_command(config, "openvino"))
    release = (with_image or fitting)[-1]
    why = f"{FLOW_NAMES[other]} does, most recently in TensorRT-LLM {release.version}"
    hint = other_runtime_command(config, _RUNTIME_OF[other], trtllm_version=release.version)
    return ConfigError(what, why=why, hint=hint)


def _without_flow(
    config: ForgeConfig,
    catalogue: Catalogue,
    release: Release,
    flow: Flow,
    *,
    fitting: Sequence[Release] = (),
    runtime: RuntimeName | None = None,
) -> ConfigError:
    """Return the error for a release without a flow; its hint is the nearest of ``fitting``."""
    having = [r for r in catalogue.releases.values() if flow in r.flows]
    what = f"TensorRT-LLM {release.version} does not have {FLOW_NAMES[flow]}"
    why = f"the first release with it is {having[0].version}"
    if flow == "engine":
        why = f"the last release with it is {having[-1].version}"
    if runtime == "openvino":
        why += "; the twin has the tensors of that flow"
    nearest = _nearest(fitting or having, release.version).version
    hint = build_command(config, runtime=runtime or _RUNTIME_OF[flow], trtllm_version=nearest)
    return ConfigError(what, why=why, hint=hint)


def _with_image(
    config: ForgeConfig, architecture: Architecture, catalogue: Catalogue, release: Release
) -> str:
    """Return the same build with the nearest release that has an image."""
    fitting = [
        r for r in catalogue.releases.values() if r.image and architecture.has_flow("engine", r)
    ]
    if not fitting:
        return "forge versions"
    return build_command(config, trtllm_version=_nearest(fitting, release.version).version)


def _nearest(fitting: Sequence[Release], version: str) -> Release:
    """Return the last of ``fitting`` before ``version``, or else the first after it."""
    before = [release for release in fitting if release.is_before(version)]
    if len(before) == len(fitting):
        # No release is near one newer than all of them: prefer a release with an image.
        before = [release for release in before if release.image] or before
    return before[-1] if before else fitting[0]


def _flows(catalogue: Catalogue, version: str) -> tuple[Flow, ...]:
    release = catalogue.releases.get(version)
    return release.flows if release else ()


def _newest(catalogue: Catalogue, flow: Flow) -> Release:
    release = catalogue.newest(flow)
    assert release is not None
    return release


def _tools(
    config: ForgeConfig,
    release: Release,
    executor: Executor,
    machine: Machine,
    mounts: tuple[Mount, ...],
    gpu: Gpu | None,
) -> tuple[Tools, bool]:
    """Return the release's tools, and whether their examples folder is available."""
    from trtllm_forge.runtimes.trtllm.tools import IMAGE_EXAMPLES_DIR, Tools

    is_docker = executor.name == "docker"
    toolchain = None if is_docker else machine.toolchain
    own = Path(config.examples_dir).expanduser().absolute() if config.examples_dir else None
    if own is not None and not own.is_dir():
        what = f"examples_dir {own} is not a folder"
        why = "it must be the folder `examples` of a clone of TensorRT-LLM"
        raise ConfigError(what, why=why)
    examples_dir = IMAGE_EXAMPLES_DIR
    has_examples = bool(is_docker and release.image and release.image.has_examples)
    if own is not None:
        has_examples = True
        if is_docker:
            mounts += (Mount(source=own, target=IMAGE_EXAMPLES_DIR, read_only=True),)
        else:
            examples_dir = str(own)
    elif toolchain is not None and toolchain.examples_dir is not None:
        examples_dir, has_examples = str(toolchain.examples_dir), True
    tools = Tools(
        release=release,
        executor=executor,
        python=str(toolchain.python) if toolchain else "python3",
        builder=str(toolchain.executable) if toolchain else "trtllm-build",
        examples_dir=examples_dir,
        mounts=mounts,
        gpu_count=len(machine.gpus.gpus),
        gpu_memory_bytes=gpu.memory_bytes if gpu else 0,
        gpu_architecture=gpu.architecture if gpu else "",
        free_memory_bytes=machine.free_memory_bytes,
        cpu_count=machine.cpu_count,
    )
    return tools, has_examples


def _mounts(settings: Settings, checkpoint_dir: Path | None) -> tuple[Mount, ...]:
    """Return the mounts of every container: the store, and the checkpoint that it links to."""
    from trtllm_forge.checkpoint.hub import read_hub_access

    source = checkpoint_dir.absolute() if checkpoint_dir else read_hub_access().cache_dir
    folders = (settings.cache_dir, source)
    return tuple(Mount(source=f, target=str(f), read_only=True) for f in folders)
