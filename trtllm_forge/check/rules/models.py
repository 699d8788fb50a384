"""FL110 to FL125, FL128: the folders of the models, their names, backends and tensors."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from trtllm_forge.check.finding import NewFile, Problem, TextEdit
from trtllm_forge.check.registry import rule
from trtllm_forge.text.spelling import nearest

if TYPE_CHECKING:
    from collections.abc import Iterable

    from trtllm_forge.check.finding import Severity
    from trtllm_forge.check.model import Tensor
    from trtllm_forge.check.view import RepositoryView

KNOWN_BACKENDS = (
    "tensorrtllm",
    "python",
    "tensorrt",
    "onnxruntime",
    "openvino",
    "pytorch",
    "tensorflow",
    "dali",
    "fil",
    "vllm",
    "identity",
    "repeat",
    "square",
)
_BACKENDS = {
    "tensorrt_llm": ("tensorrtllm", "python"),
    "preprocessing": ("python",),
    "postprocessing": ("python",),
    "tensorrt_llm_bls": ("python",),
    "llmapi": ("python",),
}
_PLATFORMS = (
    "ensemble",
    "tensorrt_plan",
    "onnxruntime_onnx",
    "pytorch_libtorch",
    "tensorflow_graphdef",
    "tensorflow_savedmodel",
)
_DOUBLED_UPSTREAM = ("kv_cache_alloc_total_blocks",)


@rule("FL110", "config-missing", "error")
def config_missing(view: RepositoryView) -> Iterable[Problem]:
    """Every model has a config.pbtxt.

    Why: No backend of such a repository can derive its tensors.
    Fix: Copy the file from the release's templates, or run `forge render`.
    """
    for model in view.models:
        if not model.has_config:
            yield Problem(
                model=model.folder,
                path=model.folder,
                message=f"{model.folder} has version folders and no config.pbtxt",
            )


@rule("FL111", "stray-folder", "error")
def stray_folder(view: RepositoryView) -> Iterable[Problem]:
    """Every folder of the repository is a model.

    Why: Triton treats every folder as a model, hidden ones too, and stops when one does not
        load.
    Fix: Move the folder out of the repository, also `.git` and `.ipynb_checkpoints`.
    """
    for name in view.stray_folders:
        yield Problem(
            path=name,
            message=f"{name} has neither a config.pbtxt nor a version folder",
            hint=f"mv {name} ../",
        )


@rule("FL112", "name-differs", "error")
def name_differs(view: RepositoryView) -> Iterable[Problem]:
    """A model has the name of its folder.

    Why: Triton refuses a model whose configuration gives another name.
    Fix: `forge check DIR --fix` uses the folder's name.
    """
    for model in view.models:
        scalar = model.config.scalar("name")
        if scalar is None or scalar.value == model.folder or scalar.is_placeholder:
            continue
        edit = TextEdit(
            path=model.path, start=scalar.start, end=scalar.end, text=f'"{model.folder}"'
        )
        yield Problem(
            model=model.folder,
            path=model.path,
            line=scalar.line,
            message=f"the model is named {scalar.value}, its folder {model.folder}",
            hint=f'name: "{model.folder}"',
            edits=(edit,),
        )


@rule("FL113", "backend-missing", "error")
def backend_missing(view: RepositoryView) -> Iterable[Problem]:
    """Every model names its backend or platform.

    Why: Without one, Triton guesses from file names and recognises none of these.
    Fix: Add `backend: "python"` or `backend: "tensorrtllm"`. An ensemble has `platform:
        "ensemble"`.
    """
    for model in view.models:
        if not model.has_config or model.mistakes:
            continue
        if model.backend or model.platform or model.is_ensemble:
            continue
        has_python = any("model.py" in files for files in model.files.values())
        if model.config.scalar("backend") is None or not model.backend:
            yield Problem(
                model=model.folder,
                path=model.path,
                line=1,
                message="neither backend nor platform is given",
                hint='backend: "python"' if has_python else "",
                # Triton takes a model.py for what it is; the release's own tools do not.
                severity="warning" if has_python else None,
            )


@rule("FL114", "backend-unknown", "error")
def backend_unknown(view: RepositoryView) -> Iterable[Problem]:
    """Every backend exists in Triton.

    Why: Triton finds no library for another name.
    Fix: Use the backend's name as Triton spells it.
    """
    for model in view.models:
        scalar = model.config.scalar("backend")
        if scalar is None or not scalar.value or scalar.is_placeholder:
            continue
        if scalar.value in KNOWN_BACKENDS:
            continue
        near = nearest(scalar.value.lower(), KNOWN_BACKENDS, cutoff=0.75)
        yield Problem(
            model=model.folder,
            path=model.path,
            line=scalar.line,
            message=f"{scalar.value} is not a Triton backend",
            hint=f'backend: "{near}"' if near else "",
            severity="error" if near else "warning",
        )


@rule("FL115", "platform-unknown", "error")
def platform_unknown(view: RepositoryView) -> Iterable[Problem]:
    """An ensemble has platform "ensemble" and steps.

    Why: Triton refuses a platform and a scheduling that do not match.
    Fix: Give it `platform: "ensemble"` and steps, and no backend.
    Upstream: https://github.com/triton-inference-server/server/issues/2917
    """
    for model in view.models:
        scalar = model.config.scalar("platform")
        if model.steps and model.platform != "ensemble":
            message = 'there is an ensemble_scheduling, and the platform is not "ensemble"'
        elif model.platform == "ensemble" and not model.steps:
            message = 'the platform is "ensemble", and there are no steps'
        elif model.platform == "ensemble" and model.backend:
            message = f"an ensemble has no backend, and this one names {model.backend}"
        elif model.platform not in ("", *_PLATFORMS):
            message = f"{model.platform} is not a Triton platform"
        else:
            continue
        line = None if scalar is None else scalar.line
        yield Problem(model=model.folder, path=model.path, line=line, message=message)


@rule("FL116", "version-missing", "error")
def version_missing(view: RepositoryView) -> Iterable[Problem]:
    """Every model has a version folder.

    Why: Git and archives drop empty folders, and Triton needs one even for an ensemble.
    Fix: `forge check DIR --fix` makes it, with a `.keep` file that survives git.
    """
    for model in view.models:
        if model.versions:
            continue
        others = [name for name in model.other_folders if any(c.isdigit() for c in name)]
        yield Problem(
            model=model.folder,
            path=model.folder,
            message=f"{model.folder} has no version folder"
            + (f", {others[0]} is not a version" if others else ""),
            hint=f"mkdir {model.folder}/1" if not others else f"mv {others[0]} 1",
            edits=() if others else (NewFile(path=f"{model.folder}/1/.keep"),),
        )


@rule("FL117", "version-not-number", "warning")
def version_not_number(view: RepositoryView) -> Iterable[Problem]:
    """A model's subfolders are version numbers.

    Why: Triton ignores folders that are not numbers, and numbers that begin with a zero.
    Fix: Rename the folder to a number.
    """
    for model in view.models:
        if not model.versions:
            continue
        for name in model.other_folders:
            digits = name.lower().lstrip("v").lstrip("0")
            if name.lower().strip("v0123456789") == "" and any(c.isdigit() for c in name):
                yield Problem(
                    model=model.folder,
                    path=f"{model.folder}/{name}",
                    message=f"{name} is not a version number, so Triton ignores it",
                    hint=f"mv {model.folder}/{name} {model.folder}/{digits or '1'}",
                )


@rule("FL120", "version-policy", "error")
def version_policy(view: RepositoryView) -> Iterable[Problem]:
    """The version policy matches a version that exists.

    Why: A policy that names only missing versions loads nothing.
    Fix: Name an existing version, or leave the policy out.
    """
    for model in view.models:
        policy = model.config.message("version_policy")
        specific = None if policy is None else policy.message("specific")
        if specific is None or not model.versions:
            continue
        for scalar in specific.scalars("versions"):
            if scalar.value not in model.versions:
                yield Problem(
                    model=model.folder,
                    path=model.path,
                    line=scalar.line,
                    message=f"version {scalar.value} is asked for, but there is "
                    + ", ".join(model.versions),
                )


@rule("FL121", "parameter-doubled", "warning")
def parameter_doubled(view: RepositoryView) -> Iterable[Problem]:
    """A parameter appears only once in a file.

    Why: Triton uses the last one.
    Fix: Keep one of them.
    """
    for model in view.models:
        counts = Counter(parameter.key for parameter in model.all_parameters)
        for key, count in counts.items():
            if count > 1:
                values = [p.value for p in model.all_parameters if p.key == key]
                yield Problem(
                    model=model.folder,
                    path=model.path,
                    line=model.parameters[key].line,
                    message=f"{key} appears {count} times; the last one is used",
                    severity="error" if len(set(values)) > 1 else None,
                )


@rule("FL122", "tensor-doubled", "error")
def tensor_doubled(view: RepositoryView) -> Iterable[Problem]:
    """A tensor is declared only once.

    Why: Nothing defines which of two declarations is used.
    Fix: Keep one. Upstream's ensembles from 0.19 on declare `kv_cache_alloc_total_blocks` more
        than once; that is harmless and only a note.
    """
    steps = {step.model_name for model in view.models for step in model.steps}
    for model in view.models:
        for word, tensors in (("input", model.inputs), ("output", model.outputs)):
            seen: dict[str, Tensor] = {}
            for tensor in tensors:
                first = seen.setdefault(tensor.name, tensor)
                if first is tensor:
                    continue
                is_upstreams = tensor.name in _DOUBLED_UPSTREAM
                severity: Severity | None = "info" if is_upstreams else "warning"
                if (first.data_type, first.dims) != (tensor.data_type, tensor.dims):
                    severity = None
                elif word == "output" and model.folder in steps:
                    # For Triton two outputs go into one tensor of the ensemble.
                    severity = None
                yield Problem(
                    model=model.folder,
                    path=model.path,
                    line=tensor.line,
                    message=f"{word} {tensor.name} was declared in line {first.line} already",
                    severity=severity,
                    hint="upstream's own file has it twice" if is_upstreams else "",
                )


@rule("FL123", "tensor-incomplete", "error")
def tensor_incomplete(view: RepositoryView) -> Iterable[Problem]:
    """A tensor has a name, a type and dims.

    Why: Triton refuses a tensor without them, or with a size of zero.
    Fix: Add what is missing; the release's own file shows it.
    """
    for model in view.models:
        for tensor in (*model.inputs, *model.outputs):
            missing = [
                word
                for word, there in (
                    ("name", tensor.name),
                    ("data_type", tensor.data_type and tensor.data_type != "TYPE_INVALID"),
                    ("dims", tensor.dims),
                )
                if not there
            ]
            bad = [
                d
                for d in tensor.dims
                if d.lstrip("+-").isdigit() and int(d) not in (-1,) and int(d) < 1
            ]
            if missing or bad:
                message = (
                    f"has no {' and no '.join(missing)}" if missing else f"has a size of {bad[0]}"
                )
                yield Problem(
                    model=model.folder,
                    path=model.path,
                    line=tensor.line,
                    message=f"tensor {tensor.name or 'without a name'} {message}",
                )


@rule("FL124", "tensors-missing", "error")
def tensors_missing(view: RepositoryView) -> Iterable[Problem]:
    """A model has inputs and outputs.

    Why: A model without inputs or outputs cannot be called.
    Fix: Copy the tensors from the release's own file.
    """
    for model in view.models:
        if not model.has_config or model.mistakes:
            continue
        for word, tensors in (("inputs", model.inputs), ("outputs", model.outputs)):
            if not tensors:
                yield Problem(
                    model=model.folder,
                    path=model.path,
                    message=f"{model.folder} has no {word}",
                    severity="warning" if model.role == "other" else None,
                )


@rule("FL125", "backend-of-part", "error")
def backend_of_part(view: RepositoryView) -> Iterable[Problem]:
    """A model has the backend of its role.

    Why: Only the engine model has a C++ backend; the others are Python.
    Fix: Use the backend that the message names.
    """
    for model in view.models:
        scalar = model.config.scalar("backend")
        wanted = _BACKENDS.get(model.role)
        if scalar is None or wanted is None or scalar.is_placeholder:
            continue
        # What is misspelt or unknown is FL114's.
        if scalar.value in KNOWN_BACKENDS and scalar.value not in wanted:
            yield Problem(
                model=model.folder,
                path=model.path,
                line=scalar.line,
                message=f"the backend is {scalar.value}, but {model.folder} is one for "
                f"{' or '.join(wanted)}",
                hint=f'backend: "{wanted[0]}"',
            )


@rule("FL128", "label-file", "error")
def label_file(view: RepositoryView) -> Iterable[Problem]:
    """The label file of a tensor exists.

    Why: Triton reads the file when it loads the model.
    Fix: Copy the file into the model's folder, or remove `label_filename`.
    """
    for model in view.models:
        for tensor in model.outputs:
            scalar = tensor.message.scalar("label_filename")
            if scalar is None or not scalar.value or scalar.is_placeholder:
                continue
            if not (view.root / model.folder / scalar.value).is_file():
                yield Problem(
                    model=model.folder,
                    path=model.path,
                    line=scalar.line,
                    message=f"label_filename of {tensor.name} is {scalar.value}, "
                    "which does not exist",
                )
