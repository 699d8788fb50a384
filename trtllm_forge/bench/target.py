"""What is measured: a served model, and how it is asked.

Four kinds of model take the same prompt in different tensors; the names of a model's inputs tell
its kind.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from trtllm_forge.errors import ConfigError, ServerError
from trtllm_forge.triton.repository.names import BLS, CORE, ENSEMBLE, FRONTS

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from trtllm_forge.triton.client.http import ModelMetadata, TensorSpec, TritonHttp

Kind = Literal["text", "ids", "llmapi"]

_NO_END_ID = -1
_SWITCHES = ("return_num_input_tokens", "return_num_output_tokens")
_ENGINE_SWITCH = {
    "text": "return_perf_metrics",
    "ids": "return_perf_metrics",
    "llmapi": "sampling_param_return_perf_metrics",
}


@dataclass(frozen=True, kw_only=True)
class Target:
    """A model of the server, and how a request to it is put.

    Attributes:
        model: Its name.
        kind: ``text`` takes a prompt, ``ids`` token ids, ``llmapi`` a prompt under the LLM API's
            names.
        tensors: Its inputs, by name.
        fixed_length: Answers go on past the end token, to the length asked for.
        engine_metrics: The engine's own figures are asked for with every request.
    """

    model: str
    kind: Kind
    tensors: Mapping[str, TensorSpec]
    fixed_length: bool = True
    engine_metrics: bool = False

    def inputs(
        self, text: str, output_tokens: int, encode: Callable[[str], list[int]] | None
    ) -> dict[str, Any]:
        """Return the tensors of one streamed request.

        Args:
            text: The prompt.
            output_tokens: How many tokens to ask for.
            encode: Turns text into ids; only called for a model that takes those.
        """
        wanted: dict[str, Any]
        match self.kind:
            case "text":
                wanted = {"text_input": text, "max_tokens": output_tokens, "stream": True}
                wanted["exclude_input_in_output"] = True
            case "ids":
                ids = encode(text) if encode else []
                wanted = {"input_ids": ids, "input_lengths": len(ids), "streaming": True}
                wanted |= {"request_output_len": output_tokens}
            case "llmapi":
                wanted = {"text_input": text, "streaming": True}
                wanted |= {
                    "sampling_param_max_tokens": output_tokens,
                    "sampling_param_exclude_input_from_output": True,
                }
        wanted |= dict.fromkeys(_SWITCHES, True)
        if self.fixed_length:
            wanted["end_id"] = _NO_END_ID
        if self.engine_metrics:
            wanted[_ENGINE_SWITCH[self.kind]] = True
        # Releases and runtimes differ in what they declare, and refuse what they do not.
        return {name: value for name, value in wanted.items() if name in self.tensors}


def find_target(http: TritonHttp, model: str | None, *, fixed_length: bool) -> Target:
    """Return a model of the server, or the one that a client would talk to.

    Raises:
        ConfigError: There is no such model, it takes no prompt, or it does not stream.
        ServerError: No server answers.
    """
    names = _ready_models(http)
    if model is None:
        model = next((name for name in FRONTS if name in names), None)
        if model is None:
            what = f"the server at {http.url} serves no model that forge knows how to ask"
            raise ConfigError(what, why=_listing(names), hint="forge bench --model NAME")
    elif model not in names:
        what = f"the server at {http.url} serves no model {model}"
        raise ConfigError(what, why=_listing(names), hint=_model_hint(names))
    metadata = http.model_metadata(model)
    kind = _kind(metadata)
    if kind is None:
        what = f"model {model} takes no prompt, wanted text_input with a length, or input_ids"
        inputs = ", ".join(tensor.name for tensor in metadata.inputs) or "none"
        raise ConfigError(what, why=f"its inputs are {inputs}", hint=_model_hint(names))
    if not http.is_decoupled(model):
        what = f"model {model} does not stream, and without a stream there is no TTFT or ITL"
        why = "its model_transaction_policy is not decoupled"
        raise ConfigError(what, why=why, hint=_model_hint(names))
    return Target(
        model=model,
        kind=kind,
        tensors={tensor.name: tensor for tensor in metadata.inputs},
        fixed_length=fixed_length,
    )


def layer_targets(http: TritonHttp, *, fixed_length: bool) -> tuple[Target, ...]:
    """Return what ``--layers`` compares, the lowest first: core model, ensemble, BLS.

    Raises:
        ConfigError: The server has not both the core model and one above it.
        ServerError: No server answers.
    """
    names = _ready_models(http)
    layers = [name for name in (CORE, ENSEMBLE, BLS) if name in names]
    if CORE not in layers or len(layers) < 2:
        what = f"the server at {http.url} has no layers: wanted {CORE} and a model above it"
        raise ConfigError(what, why=_listing(names), hint="forge bench")
    return tuple(find_target(http, name, fixed_length=fixed_length) for name in layers)


def _ready_models(http: TritonHttp) -> list[str]:
    names = list(http.ready_models((CORE, ENSEMBLE, BLS)))
    if not names:
        what = f"the server at {http.url} has no model that is ready"
        raise ServerError(what, hint="forge serve")
    return names


def _kind(metadata: ModelMetadata) -> Kind | None:
    names = {tensor.name for tensor in metadata.inputs}
    if {"text_input", "max_tokens"} <= names:
        return "text"
    if {"input_ids", "request_output_len"} <= names:
        return "ids"
    if {"text_input", "sampling_param_max_tokens"} <= names:
        return "llmapi"
    return None


def _listing(names: list[str]) -> str:
    return f"it serves {', '.join(names)}" if names else "it serves none"


def _model_hint(names: list[str]) -> str:
    known = [name for name in FRONTS if name in names]
    return f"forge bench --model {known[0]}" if known else ""
