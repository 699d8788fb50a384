"""FL401 to FL419: the engine folder, its files, and what it was built with and for."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from trtllm_forge.check.files import small_file
from trtllm_forge.check.finding import Problem
from trtllm_forge.check.registry import rule
from trtllm_forge.check.release import release_by_tensors, release_of
from trtllm_forge.triton.repository.pbtxt import whole_number

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from trtllm_forge.check.engine_folder import EngineFolder
    from trtllm_forge.check.model import Model, Parameter
    from trtllm_forge.check.view import RepositoryView

_WEIGHTS = (".safetensors", ".bin", ".pt")


@rule("FL401", "engine-missing", "error")
def engine_missing(view: RepositoryView) -> Iterable[Problem]:
    """gpt_model_path names an existing folder.

    Why: The backend reports a JSON parse error and does not name the path.
    Fix: Write the path as the server sees it, and tell the linter with `--mount-root` where the
        repository is mounted.
    Upstream: https://github.com/triton-inference-server/tensorrtllm_backend/issues/61,
        https://github.com/triton-inference-server/tensorrtllm_backend/issues/207
    """
    for model, parameter, engine in _engines(view):
        if engine.is_there:
            continue
        place = engine.place
        if not place.is_expected:
            yield _problem(
                model,
                parameter,
                f"{place.written} is not on this machine, so its engine was not checked",
                severity="info",
            )
        elif place.is_inside and not place.exists and is_without_engine(view, model):
            yield _problem(model, parameter, f"{place.written} does not exist yet", severity="info")
        else:
            yield _problem(model, parameter, place.lack)


@rule("FL402", "engine-empty", "error")
def engine_empty(view: RepositoryView) -> Iterable[Problem]:
    """The engine folder holds an engine.

    Why: An empty folder ends in `parse error at line 1, column 1`.
    Fix: Copy the engine there: `config.json` and one `rank{N}.engine` per rank.
    Upstream: https://github.com/triton-inference-server/tensorrtllm_backend/issues/61,
        https://github.com/triton-inference-server/tensorrtllm_backend/issues/500
    """
    for model, parameter, engine in _engines(view):
        if engine.is_there and not engine.names:
            yield _problem(model, parameter, f"{engine.place.written} is empty")


@rule("FL403", "engine-config", "error")
def engine_config(view: RepositoryView) -> Iterable[Problem]:
    """The engine's config.json is readable.

    Why: The backend reads parallelism and limits from it before anything else.
    Fix: Copy it from the build again, or name the folder that holds it.
    Upstream: https://github.com/triton-inference-server/tensorrtllm_backend/issues/61,
        https://github.com/triton-inference-server/server/issues/7362
    """
    for model, parameter, engine in _tensorrt(view):
        if engine.config_error:
            yield _problem(
                model, parameter, f"the engine's config.json cannot be read: {engine.config_error}"
            )
        elif "config.json" not in engine.names and not _is_checkpoint(engine):
            nested = [n for n in engine.names if _has_engine(engine, n)]
            yield _problem(
                model,
                parameter,
                f"{engine.place.written} has no config.json",
                hint=f"{engine.place.written}/{nested[0]}" if nested else "",
            )


@rule("FL404", "engine-kind", "error")
def engine_kind(view: RepositoryView) -> Iterable[Problem]:
    """The engine folder holds a TensorRT-LLM engine.

    Why: A checkpoint has to be compiled first.
    Fix: Compile it with `trtllm-build`, or `forge build`.
    """
    for model, parameter, engine in _engines(view):
        kind = ""
        if any(name.startswith("openvino_") for name in engine.names):
            kind = "an OpenVINO model" if model.backend == "tensorrtllm" else ""
        elif _is_checkpoint(engine):
            is_converted = any(re.fullmatch(r"rank\d+\.safetensors", n) for n in engine.names)
            kind = "a TRT-LLM checkpoint" if is_converted else "a Hugging Face checkpoint"
        if kind:
            yield _problem(
                model,
                parameter,
                f"{engine.place.written} holds {kind}, not an engine",
                hint="trtllm-build --checkpoint_dir ... --output_dir ...",
            )


@rule("FL405", "engine-keys", "error")
def engine_keys(view: RepositoryView) -> Iterable[Problem]:
    """The engine's config.json has the keys of an engine.

    Why: Engines from before 0.8 have other keys, and newer backends do not read them.
    Fix: Build the engine again with the server's release.
    Upstream: https://github.com/triton-inference-server/tensorrtllm_backend/issues/337
    """
    for model, parameter, engine in _tensorrt(view):
        if not engine.config or _is_checkpoint(engine):
            continue
        missing = [
            k for k in ("version", "pretrained_config", "build_config") if k not in engine.config
        ]
        if missing:
            old = (
                ", as engines from before 0.8 have it" if "builder_config" in engine.config else ""
            )
            yield _problem(
                model, parameter, f"the engine's config.json has no {', '.join(missing)}{old}"
            )


@rule("FL406", "rank-missing", "error")
def rank_missing(view: RepositoryView) -> Iterable[Problem]:
    """Every rank has an engine file.

    Why: Each rank reads its own file; the world size is tp_size times pp_size.
    Fix: Copy the missing files.
    Upstream: https://github.com/triton-inference-server/tensorrtllm_backend/issues/129
    """
    for model, parameter, engine in _tensorrt(view):
        wanted = engine.world_size
        if wanted is None or _is_checkpoint(engine):
            continue
        missing = [f"rank{n}.engine" for n in range(wanted) if n not in engine.rank_bytes]
        if missing:
            shown = ", ".join(missing[:4]) + (" and more" if len(missing) > 4 else "")
            yield _problem(
                model,
                parameter,
                f"the engine has {wanted - len(missing)} of {wanted} rank files: no {shown}",
            )


@rule("FL407", "rank-empty", "error")
def rank_empty(view: RepositoryView) -> Iterable[Problem]:
    """Every engine file contains an engine.

    Why: The file is a truncated copy or a Git LFS pointer.
    Fix: Copy the file again, or run `git lfs pull`.
    """
    for model, parameter, engine in _tensorrt(view):
        for rank, size in sorted(engine.rank_bytes.items()):
            if not size:
                yield _problem(model, parameter, f"rank{rank}.engine is empty")
            elif size < _POINTER_BYTES and engine.place.local is not None:
                head = small_file(engine.place.local / f"rank{rank}.engine") or b""
                if head.startswith(b"version https://git-lfs"):
                    hint = "git lfs pull"
                    text = f"rank{rank}.engine is a pointer of Git LFS"
                    yield _problem(model, parameter, text, hint=hint)


@rule("FL408", "rank-extra", "warning")
def rank_extra(view: RepositoryView) -> Iterable[Problem]:
    """There are no engine files beyond the world size.

    Why: They are left over from another build, and so may be the others.
    Fix: Empty the folder and copy one build.
    """
    for model, parameter, engine in _tensorrt(view):
        wanted = engine.world_size
        extra = [n for n in sorted(engine.rank_bytes) if wanted is not None and n >= wanted]
        if extra:
            yield _problem(
                model, parameter, f"rank{extra[0]}.engine is beyond the world size of {wanted}"
            )


@rule("FL409", "engine-release", "error")
def engine_release(view: RepositoryView) -> Iterable[Problem]:
    """The engine was built by the server's TensorRT-LLM release.

    Why: An engine loads only in the release that built it.
    Fix: Build the engine with the server's release, or use the image of the engine's release:
        `forge versions`.
    Upstream: https://github.com/triton-inference-server/tensorrtllm_backend/issues/531,
        https://github.com/triton-inference-server/tensorrtllm_backend/issues/299,
        https://github.com/NVIDIA/TensorRT-LLM/issues/1838
    """
    release = release_of(view)
    if release is None or not release.is_certain:
        return
    if "engine" in release.origin:
        yield from _engine_of_other_tensors(view)
        return
    wanted = release.version.split(".")
    for model, parameter, engine in _tensorrt(view):
        found = engine.version.partition("+")[0]
        if found and found.split(".")[: len(wanted)] != wanted:
            yield _problem(
                model,
                parameter,
                f"the engine was built by TensorRT-LLM {found}, and the server has "
                f"{release.version} ({release.origin})",
                hint=f"--trtllm-version {found}",
            )


@rule("FL410", "world-size", "error")
def world_size(view: RepositoryView) -> Iterable[Problem]:
    """The server starts as many ranks as the engine has.

    Why: The backend stops with `mpiSize == tp * pp`.
    Fix: `forge serve --world-size N` with the engine's world size.
    Upstream: https://github.com/triton-inference-server/tensorrtllm_backend/issues/129,
        https://github.com/NVIDIA/TensorRT-LLM/issues/1047,
        https://github.com/NVIDIA/TensorRT-LLM/issues/2021
    """
    for model, parameter, engine in _tensorrt(view):
        wanted, asked = engine.world_size, view.options.world_size
        if wanted is not None and asked is not None and asked != wanted:
            yield _problem(
                model,
                parameter,
                f"the engine has a world size of {wanted}, and --world-size is {asked}",
                hint=f"--world-size {wanted}",
            )
        mapping = engine.config.get("pretrained_config")
        said = mapping.get("mapping", {}).get("world_size") if isinstance(mapping, dict) else None
        if wanted is not None and isinstance(said, int) and said != wanted:
            yield _problem(
                model,
                parameter,
                f"the engine's mapping says world_size {said}, and its sizes multiply to {wanted}",
            )


@rule("FL411", "device-count", "error")
def device_count(view: RepositoryView) -> Iterable[Problem]:
    """An instance has one GPU per rank.

    Why: gpu_device_ids lists the GPUs of an instance, one per rank on its node.
    Fix: List as many GPUs as the engine has ranks.
    Upstream: https://github.com/triton-inference-server/tensorrtllm_backend/issues/577
    """
    for model, _, engine in _tensorrt(view):
        ids = model.setting("gpu_device_ids")
        nodes = model.setting("num_nodes")
        if ids is None or engine.world_size is None:
            continue
        wanted = engine.world_size // max(1, whole_number(nodes.value) or 1 if nodes else 1)
        for group in ids.value.split(";"):
            count = len([one for one in group.split(",") if one.strip()])
            if count != wanted:
                yield _problem(
                    model,
                    ids,
                    f"gpu_device_ids has {count} GPUs in {group.strip()}, but the engine has "
                    f"{wanted} ranks",
                )


@rule("FL412", "gpu-architecture", "error")
def gpu_architecture(view: RepositoryView) -> Iterable[Problem]:
    """The engine was built for the server's GPU.

    Why: TensorRT refuses with `expecting compute`: kernels are chosen for one GPU architecture.
    Fix: Build the engine on that GPU.
    Upstream: https://github.com/NVIDIA/TensorRT-LLM/issues/222,
        https://github.com/NVIDIA/TensorRT-LLM/issues/3031
    """
    if view.options.gpu is None:
        return
    from trtllm_forge.machine.gpu import named_gpu

    wanted = named_gpu(view.options.gpu)
    for model, parameter, engine in _tensorrt(view):
        found = engine.gpu_architecture
        if found and found != wanted.architecture:
            yield _problem(
                model,
                parameter,
                f"the engine was built for {found}, and {view.options.gpu} is "
                f"{wanted.architecture}",
            )


@rule("FL413", "engine-path-relative", "warning")
def engine_path_relative(view: RepositoryView) -> Iterable[Problem]:
    """The C++ backend gets absolute paths.

    Why: It resolves a relative path against the folder in which the server was started.
    Fix: Write the absolute path on the serving machine.
    Upstream: https://github.com/triton-inference-server/tensorrtllm_backend/issues/61
    """
    for model, parameter, _ in _engines(view):
        if model.backend == "tensorrtllm" and not parameter.value.startswith("/"):
            root = view.mount_root or "/models"
            yield _problem(
                model,
                parameter,
                f"gpt_model_path is {parameter.value}, which depends on where the server starts",
                hint=f"{root}/{parameter.value.removeprefix('./')}",
            )


@rule("FL414", "path-of-this-machine", "error")
def path_of_this_machine(view: RepositoryView) -> Iterable[Problem]:
    """Paths are those of the serving machine.

    Why: A path to the repository's present place does not exist where the repository is
        mounted.
    Fix: Write the path below the mount.
    """
    mount_root = view.mount_root
    if mount_root is None:
        return
    here = str(view.root.resolve())
    for model in view.models:
        for parameter in model.path_parameters:
            value = parameter.value
            if here == mount_root or not value.startswith(f"{here}/"):
                continue
            yield _problem(
                model,
                parameter,
                f"{parameter.key} is {value}, but the repository is mounted at {mount_root}",
                hint=f"{mount_root}{value.removeprefix(here)}",
            )


@rule("FL415", "path-missing", "error")
def path_missing(view: RepositoryView) -> Iterable[Problem]:
    """Files and folders named by parameters exist.

    Why: Encoders, adapters and the grammar's tokenizer are read when the model loads.
    Fix: Copy the file or folder there, or remove the parameter.
    """
    for model in view.models:
        for parameter in model.path_parameters:
            if parameter.key in _CHECKED_PATHS:
                continue
            place = view.resolve(parameter.value, model)
            if place.exists or not (place.is_expected or not place.written.startswith("/")):
                continue
            yield _problem(
                model, parameter, f"{parameter.key} is {place.written}, which does not exist"
            )


def _engine_of_other_tensors(view: RepositoryView) -> Iterator[Problem]:
    """Give the engines of one release among the tensors of another."""
    tensors = release_by_tensors(view)
    for model, parameter, engine in _tensorrt(view) if tensors else ():
        yield _problem(
            model,
            parameter,
            f"the engine was built by TensorRT-LLM {engine.version}, and the tensors are those of "
            f"{tensors}",
        )


_POINTER_BYTES = 300
_CHECKED_PATHS = ("gpt_model_path", "tokenizer_dir")


def is_without_engine(view: RepositoryView, model: Model) -> bool:
    """Return whether forge rendered the model alone, so that an engine is still to come."""
    return "Written by forge" in model.text[:300] and "compile" not in view.lock


def readable_engines(view: RepositoryView) -> Iterator[tuple[Model, Parameter, EngineFolder]]:
    """Give the engines that say of themselves what they were built with."""
    for model, parameter, engine in _tensorrt(view):
        if engine.is_readable:
            yield model, parameter, engine


def _engines(view: RepositoryView) -> Iterator[tuple[Model, Parameter, EngineFolder]]:
    for model in view.of_role("tensorrt_llm"):
        engine = view.engines.get(model.folder)
        if engine is not None:
            yield model, model.parameters["gpt_model_path"], engine


def _tensorrt(view: RepositoryView) -> Iterator[tuple[Model, Parameter, EngineFolder]]:
    """Give the folders that hold something and are no engine of the twin."""
    for model, parameter, engine in _engines(view):
        is_twins = model.is_forges and model.backend == "python"
        if engine.names and engine.is_tensorrt and not is_twins:
            yield model, parameter, engine


def _is_checkpoint(engine: EngineFolder) -> bool:
    has_weights = any(name.endswith(_WEIGHTS) for name in engine.names)
    return has_weights and not engine.rank_bytes and "pretrained_config" not in engine.config


def _has_engine(engine: EngineFolder, name: str) -> bool:
    return engine.place.local is not None and (engine.place.local / name / "config.json").is_file()


def _problem(
    model: Model, parameter: Parameter, message: str, *, hint: str = "", severity: str | None = None
) -> Problem:
    return Problem(
        model=model.folder,
        path=model.path,
        line=parameter.line,
        message=message,
        hint=hint,
        severity=severity,  # type: ignore[arg-type]
    )
