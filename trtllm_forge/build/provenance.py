"""Make the manifest of a finished build.

``is_repeatable`` says which bytes a build cannot promise to reproduce.
"""

from __future__ import annotations

import json
import platform
import re
from dataclasses import asdict
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

from trtllm_forge import __version__
from trtllm_forge.delivery.manifest import ImageReference, Manifest, PassedCheck, SourceCheckpoint
from trtllm_forge.pipeline.store import OutputFile

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from trtllm_forge.build.document import PreparedBuild
    from trtllm_forge.config.schema import ForgeConfig
    from trtllm_forge.files.digest import JsonValue
    from trtllm_forge.pipeline.run import StageResult

CHECK_STAGE = "check"

_ENGINE_FILE = re.compile(r"(^|/)rank\d+\.engine$")
# Paths and speed of the building machine, and settings that do not affect the repository.
_OF_THE_MACHINE = (
    "model",
    "name",
    "executor",
    "examples_dir",
    "releases_file",
    "offline",
    "gpu",
    "serve",
    "check",
)
_FOLDERS = ("lora_dir", "calib_dataset")
_PASSED = {
    "download": "every file of the checkpoint is there and has its digest",
    "render": "every config.pbtxt parses, every model.py compiles, every named model exists",
}


def manifest_of(prepared: PreparedBuild, results: Sequence[StageResult]) -> Manifest:
    """Return the manifest of the published ``results``; reads no large file."""
    choice = prepared.choice
    runtime = choice.runtime.name
    # The check stage inspects the artifact before it and is not itself published.
    published = [result for result in results if result.planned.stage.name != CHECK_STAGE][-1]
    files = published.entry.outputs
    parameters = {r.planned.stage.name: r.planned.facts.parameters for r in results}
    image = None
    if choice.executor == "docker" and choice.image is not None:
        name, _, digest = choice.image.reference.partition("@")
        image = ImageReference(reference=name, digest=digest or None)
    return Manifest(
        runtime=runtime,
        checkpoint=_checkpoint(results),
        recipe=_recipe(prepared.config, runtime),
        versions=_versions(prepared, results),
        gpu_architecture=_gpu_architecture(parameters),
        image=image,
        stages={result.planned.stage.name: result.planned.key for result in results},
        checks=_checks(results),
        files=files,
        varying=(
            "versions/python",
            *(("image/digest",) if image else ()),
            *(f"files/{file.path}" for file in files if _ENGINE_FILE.search(file.path)),
        ),
    )


def is_repeatable(stage: str, parameters: Mapping[str, JsonValue], path: str) -> bool:
    """Return whether two builds with one key must produce the same bytes for an output.

    TensorRT picks kernels by timing them, so engines differ between builds. Calibration sums on
    the GPU in no fixed order, so the output of ``quantize.py`` may differ too.
    """
    if _ENGINE_FILE.search(path):
        return False
    return not (stage == "convert" and parameters.get("tool") == "quantize")


def _checkpoint(results: Sequence[StageResult]) -> SourceCheckpoint:
    download = next(result for result in results if result.planned.stage.name == "download")
    path = download.entry.files_dir / "checkpoint.json"
    document: Any = json.loads(path.read_text(encoding="utf-8"))
    return SourceCheckpoint(
        repo_id=document["repo_id"],
        revision=document["revision"],
        origin=document["origin"],
        licence=document["licence"],
        files=tuple(
            OutputFile(path=f["path"], size_bytes=f["size_bytes"], sha256=f["sha256"])
            for f in document["files"]
        ),
    )


def _recipe(config: ForgeConfig, runtime: str) -> Mapping[str, JsonValue]:
    """Return the configuration without what is specific to the building machine."""
    document = asdict(config)
    recipe = {name: value for name, value in document.items() if name not in _OF_THE_MACHINE}
    recipe["runtime"] = runtime
    build = dict(recipe["build"])
    # The number of workers does not change a byte.
    build.pop("workers", None)
    for name in _FOLDERS:
        # The keys cover the folder's content; its path is specific to this machine.
        if build.get(name):
            build[name] = PurePath(build[name]).name
    recipe["build"] = build
    return recipe


def _versions(prepared: PreparedBuild, results: Sequence[StageResult]) -> Mapping[str, str]:
    versions: dict[str, str] = {}
    for result in results:
        versions.update(result.planned.facts.tool_versions)
    if prepared.choice.runtime.name == "llmapi":
        versions["tensorrt_llm"] = prepared.choice.release.version
    return {**versions, "trtllm-forge": __version__, "python": platform.python_version()}


def _gpu_architecture(parameters: Mapping[str, Mapping[str, JsonValue]]) -> str | None:
    architecture = parameters.get("compile", {}).get("gpu_architecture")
    return str(architecture) if architecture else None


def _checks(results: Sequence[StageResult]) -> tuple[PassedCheck, ...]:
    passed = []
    for result in results:
        name = result.planned.stage.name
        if name in _PASSED:
            passed.append(PassedCheck(stage=name, passed=_PASSED[name]))
        elif name == CHECK_STAGE:
            path = result.entry.files_dir / "findings.json"
            summary: Any = json.loads(path.read_text(encoding="utf-8"))["summary"]
            words = f"no rule finds an error; warnings: {summary['warnings']}"
            passed.append(PassedCheck(stage=name, passed=words))
    return tuple(passed)
