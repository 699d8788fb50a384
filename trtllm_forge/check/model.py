"""One model of a repository: its ``config.pbtxt``, its version folders, its part in the chain."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Literal

from trtllm_forge.check.files import small_file
from trtllm_forge.triton.repository.names import CORE, POSTPROCESSING, PREPROCESSING
from trtllm_forge.triton.repository.pbtxt import Field, Message, Scalar, SyntaxMistake, parse_pbtxt

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

Role = Literal[
    "preprocessing",
    "tensorrt_llm",
    "postprocessing",
    "ensemble",
    "tensorrt_llm_bls",
    "llmapi",
    "other",
]

CONFIG_NAME = "config.pbtxt"
TRUE_WORDS = ("true", "t", "1")
_LARGEST_CONFIG_BYTES = 16 << 20
_BOM = "\ufeff"
_UTF_16 = (b"\xff\xfe", b"\xfe\xff")
_OTHER_PARTS = ("context_model_name", "generation_model_name")
"""Parameters of upstream's model for disaggregated serving, whose tensors are the engine's."""

_PATH_PARAMETERS = (
    "gpt_model_path",
    "encoder_model_path",
    "tokenizer_dir",
    "xgrammar_tokenizer_info_path",
    "multimodal_model_path",
    "visual_model_path",
    "lora_prefetch_dir",
    "EXECUTION_ENV_PATH",
)


@dataclass(frozen=True, kw_only=True)
class Tensor:
    """An input or output of a model, as its configuration declares it."""

    name: str
    data_type: str
    dims: tuple[str, ...]
    reshape: tuple[str, ...] | None
    is_optional: bool
    is_ragged: bool
    line: int
    message: Message

    @property
    def shown_dims(self) -> str:
        """Return the dims as they are written."""
        return f"[{', '.join(self.dims)}]"


@dataclass(frozen=True, kw_only=True)
class Parameter:
    """A parameter: its key and the text of its value."""

    key: str
    value: str
    line: int
    key_scalar: Scalar
    value_scalar: Scalar | None

    @property
    def is_set(self) -> bool:
        """Return whether it says something: empty and ``${...}`` count as not said."""
        return bool(self.value.strip()) and "${" not in self.value


@dataclass(frozen=True, kw_only=True)
class Step:
    """A step of an ensemble; the maps lead from the model's tensor to the ensemble's."""

    model_name: str
    model_version: int
    inputs: tuple[Wire, ...]
    outputs: tuple[Wire, ...]
    line: int


@dataclass(frozen=True, kw_only=True)
class Wire:
    """One entry of a step's map."""

    inner: str
    outer: str
    line: int


@dataclass(frozen=True, kw_only=True)
class Model:
    """A folder of the repository.

    Attributes:
        folder: Its name, by which Triton knows the model.
        text: The configuration with all its characters; empty when there is none.
        has_config: Whether there is one.
        encoding_error: Why it is not UTF-8, or nothing.
        config: What it says, as far as it can be read.
        mistakes: Where it stops being the text format.
        versions: Names of the subfolders that are numbers.
        other_folders: Names of the others.
        files: Names of the files in each version folder.
    """

    folder: str
    text: str
    has_config: bool
    encoding_error: str
    config: Message
    mistakes: tuple[SyntaxMistake, ...]
    versions: tuple[str, ...]
    other_folders: tuple[str, ...]
    files: Mapping[str, tuple[str, ...]]

    @property
    def path(self) -> str:
        """Return the configuration's path, relative to the repository."""
        return f"{self.folder}/{CONFIG_NAME}"

    @property
    def is_whole(self) -> bool:
        """Return whether all that it says was read: what is absent is not just unread."""
        return self.has_config and not self.mistakes and bool(self.config.fields)

    @property
    def has_bom(self) -> bool:
        """Return whether the file begins with a byte order mark."""
        return self.text.startswith(_BOM)

    @property
    def readable_text(self) -> str:
        """Return the configuration as it was parsed, with the offsets of ``text``."""
        return _without_bom(self.text)

    @cached_property
    def scalars(self) -> tuple[Scalar, ...]:
        """Return every plain value of the configuration, in its order."""
        return tuple(_scalars(self.config))

    @cached_property
    def backend(self) -> str:
        """Return the backend, or nothing."""
        return self.config.text("backend")

    @cached_property
    def platform(self) -> str:
        """Return the platform, or nothing."""
        return self.config.text("platform")

    @cached_property
    def max_batch_size(self) -> int | None:
        """Return it as a number; 0 when it is absent, None when it cannot be read."""
        scalar = self.config.scalar("max_batch_size")
        return 0 if scalar is None else scalar.number

    @cached_property
    def inputs(self) -> tuple[Tensor, ...]:
        """Return the inputs in their order."""
        return tuple(_tensor(field) for field in self.config.all("input"))

    @cached_property
    def outputs(self) -> tuple[Tensor, ...]:
        """Return the outputs in their order."""
        return tuple(_tensor(field) for field in self.config.all("output"))

    def input(self, name: str) -> Tensor | None:
        """Return an input by its name."""
        return next((t for t in self.inputs if t.name == name), None)

    def output(self, name: str) -> Tensor | None:
        """Return an output by its name."""
        return next((t for t in self.outputs if t.name == name), None)

    @cached_property
    def all_parameters(self) -> tuple[Parameter, ...]:
        """Return the parameters in their order, repeated keys included."""
        return tuple(p for field in self.config.all("parameters") if (p := _parameter(field)))

    @cached_property
    def parameters(self) -> Mapping[str, Parameter]:
        """Return the parameters by key; of a repeated one the last, which Triton takes."""
        return {parameter.key: parameter for parameter in self.all_parameters}

    @property
    def path_parameters(self) -> list[Parameter]:
        """Return the parameters that are set and name a file or folder."""
        found = (self.parameters.get(key) for key in _PATH_PARAMETERS)
        return [p for p in found if p is not None and p.is_set]

    def setting(self, key: str) -> Parameter | None:
        """Return a parameter that is set, or None."""
        parameter = self.parameters.get(key)
        return parameter if parameter is not None and parameter.is_set else None

    @cached_property
    def decoupled(self) -> Scalar | None:
        """Return the value of the decoupled flag."""
        policy = self.config.message("model_transaction_policy")
        return None if policy is None else policy.scalar("decoupled")

    @property
    def is_decoupled(self) -> bool:
        """Return whether it may answer more than once."""
        return self.decoupled is not None and self.decoupled.value.lower() in TRUE_WORDS

    @cached_property
    def steps(self) -> tuple[Step, ...]:
        """Return an ensemble's steps."""
        scheduling = self.config.message("ensemble_scheduling")
        if scheduling is None:
            return ()
        return tuple(_step(message) for message in scheduling.messages("step"))

    @cached_property
    def is_ensemble(self) -> bool:
        """Return whether it is an ensemble."""
        return self.platform == "ensemble" or bool(self.config.all("ensemble_scheduling"))

    @cached_property
    def instance_groups(self) -> list[Message]:
        """Return the instance groups."""
        return self.config.messages("instance_group")

    @cached_property
    def instances(self) -> int:
        """Return how many instances of it run, by all groups together."""
        groups = self.instance_groups
        return sum((c.number or 1) if (c := g.scalar("count")) else 1 for g in groups) or 1

    @cached_property
    def role(self) -> Role:
        """Return its part in the chain, by its tensors, else by its name."""
        inputs = {tensor.name for tensor in self.inputs}
        outputs = {tensor.name for tensor in self.outputs}
        found: Role = "other"
        if self.is_ensemble:
            found = "ensemble"
        elif self._is_of_another_chain:
            found = "other"
        elif "tensorrt_llm_model_name" in self.parameters or "bls" in self.folder.split("_"):
            found = "tensorrt_llm_bls"
        elif "text_input" in inputs and any(n.startswith("sampling_param_") for n in inputs):
            found = "llmapi"
        elif self.backend == "tensorrtllm" or {"input_ids", "request_output_len"} <= inputs:
            found = "tensorrt_llm"
        elif "INPUT_ID" in outputs or self.folder == PREPROCESSING:
            found = "preprocessing"
        elif "TOKENS_BATCH" in inputs or self.folder == POSTPROCESSING:
            found = "postprocessing"
        elif "gpt_model_path" in self.parameters or self.folder == CORE:
            found = "tensorrt_llm"
        return found

    @cached_property
    def _is_of_another_chain(self) -> bool:
        """Return whether it is one of upstream's models for other layouts.

        Their tensors or names are much like those of the five: the model for disaggregated
        serving, the one for Whisper, and the Python engine of the folder ``gpt``.
        """
        if any(key in self.parameters for key in _OTHER_PARTS):
            return True
        is_named_so = "engine_dir" in self.parameters and self.backend == "python"
        return is_named_so and not {"gpt_model_path", "gpt_model_type"} & self.parameters.keys()

    @property
    def is_forges(self) -> bool:
        """Return whether its Python is forge's own, which finds paths inside the repository."""
        return any("model_folder.py" in files for files in self.files.values())


def read_model(folder: Path) -> Model:
    """Return the model in ``folder``."""
    path = folder / CONFIG_NAME
    content = small_file(path, _LARGEST_CONFIG_BYTES) or b""
    encoding_error = ""
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        text = content.decode("utf-8", errors="replace")
        encoding_error = f"byte {error.start}: {error.reason}"
        if content.startswith(_UTF_16):
            encoding_error = "it is UTF-16"
    config, mistakes = parse_pbtxt(_without_bom(text))
    folders = sorted(child.name for child in folder.iterdir() if child.is_dir())
    # Triton takes numbers without leading zeros.
    versions = [n for n in folders if n.isdecimal() and (n == "0" or not n.startswith("0"))]
    return Model(
        folder=folder.name,
        text=text,
        has_config=path.is_file(),
        encoding_error=encoding_error,
        config=config,
        mistakes=mistakes,
        versions=tuple(sorted(versions, key=int)),
        other_folders=tuple(name for name in folders if name not in versions),
        files={v: tuple(sorted(p.name for p in (folder / v).iterdir())) for v in versions},
    )


def _without_bom(text: str) -> str:
    return text.replace(_BOM, " ", 1) if text.startswith(_BOM) else text


def _scalars(message: Message) -> Iterator[Scalar]:
    for field in message.fields:
        if isinstance(field.value, Scalar):
            yield field.value
        else:
            yield from _scalars(field.value)


def _tensor(field: Field) -> Tensor:
    message = field.value
    if isinstance(message, Scalar):
        message = Message((), field.line, field.start, field.end)
    reshape = message.message("reshape")
    return Tensor(
        name=message.text("name"),
        data_type=message.text("data_type"),
        dims=tuple(scalar.value for scalar in message.scalars("dims")),
        reshape=None if reshape is None else tuple(s.value for s in reshape.scalars("shape")),
        is_optional=message.text("optional").lower() in TRUE_WORDS,
        is_ragged=message.text("allow_ragged_batch").lower() in TRUE_WORDS,
        line=(message.scalar("name") or message).line,
        message=message,
    )


def _parameter(field: Field) -> Parameter | None:
    if isinstance(field.value, Scalar):
        return None
    key = field.value.scalar("key")
    if key is None:
        return None
    holder = field.value.message("value")
    value = None if holder is None else holder.scalar("string_value")
    return Parameter(
        key=key.value,
        value="" if value is None else value.value,
        line=(value or key).line,
        key_scalar=key,
        value_scalar=value,
    )


def _step(message: Message) -> Step:
    name, version = message.scalar("model_name"), message.scalar("model_version")
    return Step(
        model_name="" if name is None else name.value,
        model_version=-1 if version is None or version.number is None else version.number,
        inputs=_wires(message, "input_map"),
        outputs=_wires(message, "output_map"),
        line=(name or message).line,
    )


def _wires(message: Message, name: str) -> tuple[Wire, ...]:
    return tuple(
        Wire(inner=entry.text("key"), outer=entry.text("value"), line=entry.line)
        for entry in message.messages(name)
    )
