"""FL310 to FL339: the parameters, their keys and values, each for itself."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING

from trtllm_forge.check.finding import Problem, TextEdit
from trtllm_forge.check.parameter_kinds import (
    AT_LEAST_ONE,
    BATCHING,
    CHOICES,
    FORGES_OWN,
    FRACTIONS,
    NAMED_ELSEWHERE,
    PYTHON_BACKEND,
    PYTHON_SWITCH,
    STATIC_BATCHING,
    SWITCH_WORDS,
    SWITCHES,
    WHOLE,
    WORKER_PATH,
)
from trtllm_forge.check.registry import rule
from trtllm_forge.check.release import contract_of
from trtllm_forge.check.rules.text import MANDATORY
from trtllm_forge.text.spelling import nearest_words
from trtllm_forge.triton.repository.contract import known_releases, read_contract
from trtllm_forge.triton.repository.names import CORE
from trtllm_forge.triton.repository.pbtxt import Message, whole_number

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from trtllm_forge.check.model import Model, Parameter
    from trtllm_forge.check.view import RepositoryView

_IDS = re.compile(r"\s*\d+(\s*,\s*\d+)*\s*(;\s*\d+(\s*,\s*\d+)*\s*)*")


@rule("FL310", "parameter-misspelt", "error")
def parameter_misspelt(view: RepositoryView) -> Iterable[Problem]:
    """A parameter's key is spelled as the model reads it.

    Why: Triton does not report an unknown key, and its value has no effect.
    Fix: Use the key that the message names. `--fix` does when exactly one known key is a single
        letter away.
    """
    for model, parameter, known in _unknown(view):
        near, certain = _meant(parameter.key, known)
        if not near:
            continue
        scalar = parameter.key_scalar
        is_free = certain and near[0] not in model.parameters
        edit = TextEdit(path=model.path, start=scalar.start, end=scalar.end, text=f'"{near[0]}"')
        yield Problem(
            model=model.folder,
            path=model.path,
            line=scalar.line,
            message=f"there is no parameter {parameter.key}; the nearest is {near[0]}",
            hint=f'key: "{near[0]}"',
            edits=(edit,) if is_free else (),
        )


@rule("FL311", "parameter-unknown", "info")
def parameter_unknown(view: RepositoryView) -> Iterable[Problem]:
    """A parameter is one that the release reads.

    Why: It has no effect.
    Fix: Remove it, or move to a release that reads it.
    """
    contract = contract_of(view)
    for model, parameter, known in _unknown(view):
        if _meant(parameter.key, known)[0] or contract is None:
            continue
        others = _releases_with(model, parameter.key, view)
        where = f"; {others} has it" if others else ""
        yield Problem(
            model=model.folder,
            path=model.path,
            line=parameter.key_scalar.line,
            message=f"{model.folder} of TensorRT-LLM {contract.release} does not read "
            f"{parameter.key}{where}",
        )


@rule("FL312", "parameter-missing", "error")
def parameter_missing(view: RepositoryView) -> Iterable[Problem]:
    """Every parameter that a model requires is present.

    Why: These have no default, so the model refuses to load.
    Fix: Add it.
    Upstream: https://github.com/triton-inference-server/tensorrtllm_backend/issues/207
    """
    for model in view.models:
        if not model.has_config or model.mistakes:
            continue
        for key in MANDATORY.get(model.role, ()):
            parameter = model.parameters.get(key)
            if key == "gpt_model_type" and model.backend == "python":
                continue
            if parameter is None or not parameter.value.strip():
                is_near = any(nearest_words(k, [key])[0] for k in model.parameters if k != key)
                yield Problem(
                    model=model.folder,
                    path=model.path,
                    line=None if parameter is None else parameter.line,
                    message=f"{key} is {'missing' if parameter is None else 'empty'}"
                    + (", and a key near it is there" if is_near and parameter is None else ""),
                )


@rule("FL313", "parameter-number", "error")
def parameter_number(view: RepositoryView) -> Iterable[Problem]:
    """Numbers are numbers and within their bounds.

    Why: The backend uses its default for a value that it cannot read, and says so in a single
        log line.
    Fix: Write a number.
    """
    for model, parameter in _set_parameters(view):
        value = parameter.value.strip()
        if parameter.key in WHOLE:
            number = whole_number(value)
            least = 1 if parameter.key in AT_LEAST_ONE else 0
            if number is None or number < least:
                yield wrong_value(model, parameter, f"expected a whole number of at least {least}")
        elif parameter.key == "max_attention_window_size":
            sizes = [whole_number(size) for size in value.strip("[]{}").split(",")]
            if any(size is None or size < 1 for size in sizes):
                yield wrong_value(
                    model, parameter, "expected numbers of tokens, separated by commas"
                )


@rule("FL314", "parameter-fraction", "error")
def parameter_fraction(view: RepositoryView) -> Iterable[Problem]:
    """Fractions are between 0 and 1.

    Why: 90 does not mean 0.9: the KV cache would be 90 times larger than the free memory.
    Fix: Write a fraction such as `0.9`.
    Upstream: https://github.com/NVIDIA/TensorRT-LLM/issues/486,
        https://github.com/NVIDIA/TensorRT-LLM/issues/1400
    """
    for model, parameter in _set_parameters(view):
        if parameter.key not in FRACTIONS:
            continue
        try:
            share = float(parameter.value)
        except ValueError:
            share = -1.0
        low_ok = share > 0 if parameter.key == "kv_cache_free_gpu_mem_fraction" else share >= 0
        if not (low_ok and share <= 1):
            hint = f"{share / 100:g}" if 1 < share <= 100 else ""
            yield wrong_value(
                model, parameter, "expected a fraction above 0 and up to 1", hint=hint
            )


@rule("FL315", "parameter-switch", "warning")
def parameter_switch(view: RepositoryView) -> Iterable[Problem]:
    """Switches are true or false.

    Why: Any other word means the default.
    Fix: Write `true` or `false`. For `FORCE_CPU_ONLY_INPUT_TENSORS` the python backend accepts
        only `yes` or `no`, and does not load the model with any other value, an empty one
        included.
    """
    for model, parameter in _set_parameters(view):
        is_pythons = parameter.key == PYTHON_SWITCH and model.backend == "python"
        if is_pythons or parameter.key not in SWITCHES:
            continue
        if parameter.value.strip().lower() not in SWITCH_WORDS:
            yield wrong_value(model, parameter, "expected true or false")
    for model in view.models:
        word = model.parameters.get(PYTHON_SWITCH)
        if word is not None and model.backend == "python" and word.value not in ("yes", "no"):
            # The python backend itself reads it, and does not load the model: empty counts, too.
            wrong = wrong_value(model, word, "expected yes or no", hint="no")
            yield replace(wrong, severity="error")


@rule("FL316", "parameter-choice", "warning")
def parameter_choice(view: RepositoryView) -> Iterable[Problem]:
    """A choice is one of the backend's words.

    Why: The backend logs a warning and uses the default.
    Fix: Use one of the words that the message names.
    """
    for model, parameter in _set_parameters(view):
        choices = CHOICES.get(parameter.key)
        if choices is None or parameter.value.strip().lower() in choices:
            continue
        near, _ = nearest_words(parameter.value, choices)
        yield wrong_value(
            model,
            parameter,
            f"expected one of {', '.join(choices)}",
            hint=near[0] if near else "",
        )


@rule("FL317", "batching-type", "error")
def batching_type(view: RepositoryView) -> Iterable[Problem]:
    """gpt_model_type is a batching strategy.

    Why: The C++ backend refuses to load with any other word.
    Fix: Use `inflight_fused_batching`.
    Upstream: https://github.com/triton-inference-server/tensorrtllm_backend/issues/378
    """
    for model in view.of_role("tensorrt_llm"):
        parameter = model.setting("gpt_model_type")
        if parameter is None or parameter.value in (*BATCHING, *STATIC_BATCHING):
            continue
        near, _ = nearest_words(parameter.value, BATCHING)
        yield wrong_value(
            model,
            parameter,
            f"expected one of {', '.join(BATCHING)}",
            hint=near[0] if near else BATCHING[0],
        )


@rule("FL318", "static-batching", "warning")
def static_batching(view: RepositoryView) -> Iterable[Problem]:
    """Batching is in-flight: requests join and leave a running batch.

    Why: V1 waits until the slowest request of a batch is done.
    Fix: Use `inflight_fused_batching`, with an engine that supports it (FL425).
    Upstream: https://github.com/triton-inference-server/tensorrtllm_backend/issues/378,
        https://github.com/triton-inference-server/tensorrtllm_backend/issues/230
    """
    for model in view.of_role("tensorrt_llm"):
        parameter = model.setting("gpt_model_type")
        if parameter is not None and parameter.value in STATIC_BATCHING:
            yield Problem(
                model=model.folder,
                path=model.path,
                line=parameter.line,
                message=f"gpt_model_type is {parameter.value}: a batch ends before the next begins",
                hint=BATCHING[0],
            )


@rule("FL322", "device-ids", "error")
def device_ids(view: RepositoryView) -> Iterable[Problem]:
    """GPUs and ranks are given as numbers.

    Why: A comma separates the GPUs of one instance, a semicolon separates instances.
    Fix: Write numbers, with commas inside an instance and semicolons between instances.
    """
    for model, parameter in _set_parameters(view):
        if parameter.key not in ("gpu_device_ids", "participant_ids"):
            continue
        value = parameter.value
        if not _IDS.fullmatch(value):
            yield wrong_value(model, parameter, "expected numbers such as 0,1;2,3")
            continue
        groups = [[int(n) for n in group.split(",")] for group in value.split(";")]
        if any(len(set(group)) < len(group) for group in groups):
            yield wrong_value(model, parameter, "a number stands in one instance twice")


@rule("FL323", "lora-dir-unset", "warning")
def lora_dir_unset(view: RepositoryView) -> Iterable[Problem]:
    """lora_prefetch_dir is a folder or empty.

    Why: The C++ backend of 0.19 reads an unfilled ${...} as the name of a folder.
    Fix: `forge check DIR --fix` writes an empty value.
    """
    contract = contract_of(view)
    for model in view.of_role("tensorrt_llm"):
        parameter = model.parameters.get("lora_prefetch_dir")
        release = contract.release if contract else ""
        if parameter is None or "${" not in parameter.value or release != "0.19":
            continue
        scalar = parameter.value_scalar
        yield Problem(
            model=model.folder,
            path=model.path,
            line=parameter.line,
            message=f"lora_prefetch_dir is {parameter.value}, which release 0.19 takes as it is",
            severity="info",
            hint='string_value: ""',
            edits=()
            if scalar is None
            else (TextEdit(path=model.path, start=scalar.start, end=scalar.end, text='""'),),
        )


@rule("FL325", "parameter-kind", "error")
def parameter_kind(view: RepositoryView) -> Iterable[Problem]:
    """Parameter values are strings.

    Why: Triton's parameters are strings; a number has to be quoted.
    Fix: Write `value: { string_value: "..." }`.
    """
    for model in view.models:
        for parameter in model.all_parameters:
            if parameter.value_scalar is None:
                yield Problem(
                    model=model.folder,
                    path=model.path,
                    line=parameter.line,
                    message=f"{parameter.key} has no string_value",
                    hint='value: { string_value: "..." }',
                )


@rule("FL326", "worker-path", "warning")
def worker_path(view: RepositoryView) -> Iterable[Problem]:
    """The executor worker path exists in the image.

    Why: Orchestrator mode starts this program and fails if it is missing.
    Fix: Use `/opt/tritonserver/backends/tensorrtllm/trtllmExecutorWorker`.
    """
    for model in view.of_role("tensorrt_llm"):
        parameter = model.setting("executor_worker_path")
        if parameter is not None and parameter.value != WORKER_PATH:
            yield wrong_value(
                model, parameter, f"the images have it at {WORKER_PATH}", hint=WORKER_PATH
            )


@rule("FL327", "parameter-key", "warning")
def parameter_key(view: RepositoryView) -> Iterable[Problem]:
    """Every parameter has a key.

    Why: Nobody reads a value without a key.
    Fix: Add the key, or remove the value.
    """
    for model in view.models:
        for field in model.config.all("parameters"):
            if isinstance(field.value, Message) and not field.value.text("key"):
                yield Problem(
                    model=model.folder,
                    path=model.path,
                    line=field.line,
                    message="a parameter has no key",
                )


def _set_parameters(view: RepositoryView) -> Iterator[tuple[Model, Parameter]]:
    for model in view.models:
        for parameter in model.all_parameters:
            if parameter.is_set:
                yield model, parameter


def _unknown(view: RepositoryView) -> Iterator[tuple[Model, Parameter, list[str]]]:
    """Give each parameter that neither the release nor the backend reads, and those they do."""
    contract = contract_of(view)
    if contract is None:
        return
    for model in view.models:
        declared = contract.models.get(CORE if model.role == "llmapi" else model.role)
        if declared is None or model.role == "ensemble":
            continue
        known = [*declared.parameters, *PYTHON_BACKEND]
        if model.is_forges or model.backend == "python":
            known += FORGES_OWN
        for parameter in model.all_parameters:
            if parameter.key not in known:
                yield model, parameter, known


def _meant(key: str, known: list[str]) -> tuple[list[str], bool]:
    """Return the known keys that were likely meant, and whether there is just one for certain."""
    other = NAMED_ELSEWHERE.get(key)
    return ([other], True) if other in known else nearest_words(key, known)


def _releases_with(model: Model, key: str, view: RepositoryView) -> str:
    contract = contract_of(view)
    layout = contract.layout if contract else "engine"
    found = []
    for release in known_releases(layout):
        declared = read_contract(release, layout).models.get(model.role)
        if declared is not None and key in declared.parameters:
            found.append(release)
    return f"{found[0]} to {found[-1]}" if len(found) > 1 else "".join(found)


def wrong_value(model: Model, parameter: Parameter, wanted: str, *, hint: str = "") -> Problem:
    """Return the problem of a value that is not the ``wanted`` one, in words."""
    return Problem(
        model=model.folder,
        path=model.path,
        line=parameter.line,
        message=f"{parameter.key} is {parameter.value or 'empty'}, {wanted}",
        hint=hint,
    )
