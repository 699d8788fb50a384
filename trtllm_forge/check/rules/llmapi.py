"""FL901 to FL919: the model over the LLM API and its ``model.yaml``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trtllm_forge.check.finding import Problem
from trtllm_forge.check.registry import rule
from trtllm_forge.check.release import release_of
from trtllm_forge.errors import ConfigError
from trtllm_forge.text.spelling import nearest_words

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from trtllm_forge.check.model import Model
    from trtllm_forge.check.model_yaml import ModelYaml
    from trtllm_forge.check.view import RepositoryView

TRITON_KEYS = ("max_batch_size", "decoupled", "cancellation_check_period_ms")
_NOT_ARGUMENTS = ("triton_config", "model", "tokenizer")
_SECTIONS = (
    "kv_cache_config",
    "scheduler_config",
    "speculative_config",
)
_COUNTS = (
    "max_batch_size",
    "max_seq_len",
    "max_input_len",
    "max_num_tokens",
    "max_beam_width",
    "kv_cache_config.max_tokens",
)
_SWITCHES = (
    "trust_remote_code",
    "enable_chunked_prefill",
    "disable_overlap_scheduler",
    "kv_cache_config.enable_block_reuse",
)
_CHOICES = {
    "backend": ("pytorch", "_autodeploy"),
    "scheduler_config.capacity_scheduler_policy": (
        "MAX_UTILIZATION",
        "GUARANTEED_NO_EVICT",
        "STATIC_BATCH",
    ),
    "scheduler_config.context_chunking_policy": ("FIRST_COME_FIRST_SERVED", "EQUAL_PROGRESS"),
}
"""Arguments whose value is one of a few words.

Triton's model over the LLM API lost the backend tensorrt with release 1.0.
"""


@rule("FL901", "model-yaml-missing", "error")
def model_yaml_missing(view: RepositoryView) -> Iterable[Problem]:
    """The LLM API's model has a model.yaml.

    Why: It names the checkpoint; without it there is nothing to load.
    Fix: Write it, or run `forge render MODEL --runtime llmapi`.
    """
    for model in view.of_role("llmapi"):
        document = view.model_yamls[model.folder]
        if not document.is_there:
            yield Problem(
                model=model.folder, path=document.path, message=f"{document.path} is missing"
            )


@rule("FL902", "model-yaml-parses", "error")
def model_yaml_parses(view: RepositoryView) -> Iterable[Problem]:
    """model.yaml is valid YAML.

    Why: The model fails as soon as it reads the file.
    Fix: Fix the line that the message names.
    """
    for model, document in _documents(view):
        if document.error:
            yield Problem(
                model=model.folder,
                path=document.path,
                line=document.error_line,
                message=f"not YAML: {document.error}",
            )
        for key, line in document.doubled.items():
            yield Problem(
                model=model.folder,
                path=document.path,
                line=line,
                message=f"{key} appears a second time; the last one is used",
                severity="warning",
            )


@rule("FL903", "argument-unknown", "error")
def argument_unknown(view: RepositoryView) -> Iterable[Problem]:
    """model.yaml has only arguments of the release's LLM API.

    Why: The LLM API refuses unknown arguments.
    Fix: Use the release's name of the argument.
    """
    names = _known_arguments(view)
    if names is None:
        return
    from trtllm_forge.releases.llmapi_arguments import renamed_arguments

    objects = {name.split(".")[0] for name in names if "." in name}
    for model, document in _documents(view):
        for key, line in document.lines.items():
            top = key.split(".")[0]
            if top in _NOT_ARGUMENTS or key in names or key in objects:
                continue
            # Nested objects that the table does not open are taken as they are.
            if "." in key and top not in objects:
                continue
            meant = renamed_arguments().get(key)
            near = [meant] if meant else nearest_words(key, names)[0]
            yield Problem(
                model=model.folder,
                path=document.path,
                line=line,
                message=f"the LLM API has no argument {key}",
                hint=near[0] if near else "",
                # The table may lack what is new: a near one is a slip, another may be right.
                severity=None if near else "warning",
            )


@rule("FL904", "triton-config", "error")
def triton_config(view: RepositoryView) -> Iterable[Problem]:
    """triton_config has only keys that the model reads.

    Why: max_batch_size and decoupled are read from there.
    Fix: Use one of `max_batch_size`, `decoupled`, `cancellation_check_period_ms`.
    """
    for model, document in _documents(view):
        yield from _wrong_triton_values(model, document)
        for key in document.section("triton_config"):
            if key not in TRITON_KEYS:
                near, _ = nearest_words(str(key), TRITON_KEYS)
                yield Problem(
                    model=model.folder,
                    path=document.path,
                    line=document.lines.get(f"triton_config.{key}"),
                    message=f"triton_config has no key {key}",
                    hint=near[0] if near else "",
                    severity=None if near else "warning",
                )


@rule("FL905", "checkpoint-missing", "error")
def checkpoint_missing(view: RepositoryView) -> Iterable[Problem]:
    """The `model` of model.yaml names an existing checkpoint.

    Why: A path that does not exist is treated as a name on the Hub.
    Fix: Write the path as the server sees it.
    """
    for model, document in _documents(view):
        if document.error:
            continue
        written, line = document.values.get("model"), document.lines.get("model")
        if not isinstance(written, str) or not written.strip():
            yield Problem(
                model=model.folder,
                path=document.path,
                line=line,
                message="model is not given",
            )
            continue
        place = view.resolve(written, model)
        if place.exists or not written.startswith("/"):
            continue
        is_pending = "Written by forge" in model.text[:300] and not view.lock
        is_known = place.is_expected and not is_pending
        yield Problem(
            model=model.folder,
            path=document.path,
            line=line,
            message=f"{written} does not exist"
            if is_known
            else f"{written} is not on this machine, so it was not checked",
            severity=None if is_known else "info",
        )


@rule("FL906", "checkpoint-from-hub", "info")
def checkpoint_from_hub(view: RepositoryView) -> Iterable[Problem]:
    """The checkpoint is a folder, not a name on the Hub.

    Why: Otherwise every start needs the network and loads whatever the name refers to that day.
    Fix: Download the checkpoint into the repository and name the folder.
    """
    for model, document in _documents(view):
        written = document.values.get("model")
        if not isinstance(written, str) or not written or written.startswith(("/", ".")):
            continue
        if not view.resolve(written, model).exists:
            yield Problem(
                model=model.folder,
                path=document.path,
                line=document.lines.get("model"),
                message=f"{written} is loaded from the Hub at each start",
            )


@rule("FL907", "llmapi-decoupled", "error")
def llmapi_decoupled(view: RepositoryView) -> Iterable[Problem]:
    """model.yaml and config.pbtxt agree on decoupled.

    Why: The model answers as model.yaml says, and Triton expects what config.pbtxt says.
    Fix: Write the same value in both.
    Upstream: https://github.com/triton-inference-server/tensorrtllm_backend/issues/348
    """
    for model, document in _documents(view):
        said = document.section("triton_config").get("decoupled")
        if model.decoupled is None or not isinstance(said, bool) or said == model.is_decoupled:
            continue
        yield Problem(
            model=model.folder,
            path=document.path,
            line=document.lines.get("triton_config.decoupled"),
            message=f"triton_config.decoupled is {str(said).lower()}, but config.pbtxt says "
            f"{model.decoupled.value}",
            hint=f"decoupled: {model.decoupled.value}",
        )


@rule("FL908", "llmapi-world-size", "error")
def llmapi_world_size(view: RepositoryView) -> Iterable[Problem]:
    """The server starts as many ranks as model.yaml asks for.

    Why: The world size is tensor_parallel_size times pipeline_parallel_size.
    Fix: `forge serve --world-size N` with the product of the two sizes.
    Upstream: https://github.com/NVIDIA/TensorRT-LLM/issues/1047
    """
    asked = view.options.world_size
    for model, document in _documents(view):
        sizes = [
            document.values.get(name, 1)
            for name in ("tensor_parallel_size", "pipeline_parallel_size")
        ]
        bad = [size for size in sizes if not isinstance(size, int) or size < 1]
        wanted = 0 if bad else sizes[0] * sizes[1]
        if bad:
            message = f"a parallel size is {bad[0]}"
        elif asked is not None and asked != wanted:
            message = f"model.yaml makes a world size of {wanted}, and --world-size is {asked}"
        else:
            continue
        yield Problem(
            model=model.folder,
            path=document.path,
            line=document.lines.get("tensor_parallel_size"),
            message=message,
            hint=f"--world-size {wanted}" if wanted else "",
        )


@rule("FL909", "llmapi-kv-cache", "error")
def llmapi_kv_cache(view: RepositoryView) -> Iterable[Problem]:
    """The KV cache settings of model.yaml are within bounds.

    Why: A fraction is between 0 and 1, and at least one sequence has to fit.
    Fix: Write a fraction such as `0.9`, and tokens for at least one sequence.
    Upstream: https://github.com/triton-inference-server/tensorrtllm_backend/issues/366
    """
    for model, document in _documents(view):
        section = document.section("kv_cache_config")
        share, tokens = section.get("free_gpu_memory_fraction"), section.get("max_tokens")
        limit = document.values.get("max_seq_len")
        if share is not None and not (isinstance(share, (int, float)) and 0 < share <= 1):
            yield Problem(
                model=model.folder,
                path=document.path,
                line=document.lines.get("kv_cache_config.free_gpu_memory_fraction"),
                message=f"free_gpu_memory_fraction is {share}, expected a fraction above 0 "
                "and up to 1",
            )
        if isinstance(tokens, int) and isinstance(limit, int) and tokens < limit:
            yield Problem(
                model=model.folder,
                path=document.path,
                line=document.lines.get("kv_cache_config.max_tokens"),
                message=f"max_tokens is {tokens}, but a sequence has {limit}",
            )


@rule("FL910", "llmapi-batch", "error")
def llmapi_batch(view: RepositoryView) -> Iterable[Problem]:
    """The model over the LLM API has no batch axis.

    Why: Its tensors are those of one prompt; requests are batched inside the LLM API.
    Fix: Set `max_batch_size: 0`.
    """
    for model in view.of_role("llmapi"):
        scalar = model.config.scalar("max_batch_size")
        if scalar is not None and scalar.number:
            yield Problem(
                model=model.folder,
                path=model.path,
                line=scalar.line,
                message=f"max_batch_size is {scalar.value}, but text_input has no batch axis",
                hint="max_batch_size: 0",
            )
    for model, document in _documents(view):
        size = document.section("triton_config").get("max_batch_size")
        if isinstance(size, int) and size > 0:
            yield Problem(
                model=model.folder,
                path=document.path,
                line=document.lines.get("triton_config.max_batch_size"),
                message=f"triton_config.max_batch_size is {size}, but text_input has no batch axis",
                hint="max_batch_size: 0",
            )


@rule("FL911", "argument-value", "error")
def argument_value(view: RepositoryView) -> Iterable[Problem]:
    """Arguments have values that the LLM API accepts.

    Why: The LLM API refuses a value of another kind at start.
    Fix: Use the kind of value that the message names. Triton's model over the LLM API has no
        backend `tensorrt` since release 1.0.
    """
    for model, document in _documents(view):
        values = {name: document.values.get(name) for name in document.values}
        for section in _SECTIONS:
            values |= {f"{section}.{k}": v for k, v in document.section(section).items()}
        for name, value in values.items():
            wanted = "" if value is None else _wanted(name, value)
            if wanted:
                shown = str(value).lower() if isinstance(value, bool) else value
                yield Problem(
                    model=model.folder,
                    path=document.path,
                    line=document.lines.get(name),
                    message=f"{name} is {shown}, expected {wanted}",
                )


def _wanted(name: str, value: object) -> str:
    """Return in words what an argument has to be, or nothing where it is so."""
    choices = _CHOICES.get(name)
    if choices is not None:
        return "" if value in choices else f"one of {', '.join(choices)}"
    if name in _COUNTS:
        is_count = isinstance(value, int) and not isinstance(value, bool) and value >= 1
        return "" if is_count else "a whole number of at least 1"
    if name in _SWITCHES:
        return "" if isinstance(value, bool) else "true or false"
    if name in _SECTIONS:
        return "" if isinstance(value, dict) else "an object with keys"
    return ""


def _wrong_triton_values(model: Model, document: ModelYaml) -> Iterator[Problem]:
    section = document.values.get("triton_config")
    decoupled = document.section("triton_config").get("decoupled")
    if section is not None and not isinstance(section, dict):
        message, key = f"triton_config is {section}, expected keys", "triton_config"
    elif decoupled is not None and not isinstance(decoupled, bool):
        message = f"triton_config.decoupled is {decoupled}, expected true or false"
        key = "triton_config.decoupled"
    else:
        return
    yield Problem(
        model=model.folder, path=document.path, line=document.lines.get(key), message=message
    )


def _documents(view: RepositoryView) -> Iterator[tuple[Model, ModelYaml]]:
    for model in view.of_role("llmapi"):
        document = view.model_yamls[model.folder]
        if document.is_there:
            yield model, document


def _known_arguments(view: RepositoryView) -> frozenset[str] | None:
    release = release_of(view)
    if release is None or not view.of_role("llmapi"):
        return None
    from trtllm_forge.releases.catalogue import read_catalogue
    from trtllm_forge.releases.llmapi_arguments import other_arguments, read_arguments

    try:
        catalogue = read_catalogue()
        version = release.version
        return read_arguments(catalogue.find(version)).names | other_arguments()
    except ConfigError:
        return None
