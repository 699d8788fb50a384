"""Reads the contract's input tensors into a prompt and sampling parameters.

With ``max_batch_size`` 0 no tensor has a batch axis: ``text_input`` is ``[1]``, as are scalars.
"""

from dataclasses import dataclass

import triton_python_backend_utils as pb_utils

_SAMPLING = {
    "best_of": int,
    "temperature": float,
    "top_k": int,
    "top_p": float,
    "frequency_penalty": float,
    "presence_penalty": float,
    "max_tokens": int,
    "seed": int,
}
# Inputs that some releases declare and that are not served; ignoring one would change the answer.
_UNSUPPORTED = ("image_url", "lora_id", "lora_name", "lora_path", "lora_ckpt_source")
_OUTPUTS = ("finish_reason", "stop_reason", "cumulative_logprob")


@dataclass(frozen=True)
class LlmRequest:
    """One prompt, the arguments of ``SamplingParams``, and what the answer has to hold."""

    prompt: str
    sampling: dict
    streaming: bool
    outputs: tuple


def is_stop(request):
    """Return whether the request asks to stop another one."""
    return bool(_scalar(request, "stop", bool) or False)


def read_request(request, *, is_decoupled):
    """Return what a request asks for.

    Raises:
        ValueError: An input is missing, of another shape or not served; the text names it.
    """
    for name in _UNSUPPORTED:
        if _flat(request, name):
            raise ValueError(f"{name} is not supported by this model")
    streaming = bool(_scalar(request, "streaming", bool) or False)
    if streaming and not is_decoupled:
        raise ValueError("Streaming is only supported in decoupled mode.")
    return LlmRequest(
        prompt=_prompt(request),
        sampling=_sampling(request),
        streaming=streaming,
        outputs=tuple(name for name in _OUTPUTS if _scalar(request, f"return_{name}", bool)),
    )


def _sampling(request):
    """Return the arguments that were sent, and the contract's defaults of two others."""
    sampling = {
        "exclude_input_from_output": False,
        "return_perf_metrics": False,
    }
    for name in sampling:
        value = _scalar(request, f"sampling_param_{name}", bool)
        sampling[name] = sampling[name] if value is None else value
    for name, kind in _SAMPLING.items():
        value = _scalar(request, f"sampling_param_{name}", kind)
        if value is not None:
            sampling[name] = value
    # Clients of the other models send an empty string where they mean none.
    stop = [word for word in _strings(request, "sampling_param_stop") if word]
    if stop:
        sampling["stop"] = stop
    return sampling


def _prompt(request):
    prompts = _strings(request, "text_input")
    if len(prompts) != 1:
        raise ValueError(f"text_input holds {len(prompts)} prompts, a request has 1")
    return prompts[0]


def _strings(request, name):
    values = _flat(request, name)
    return [v.decode("utf-8") if isinstance(v, bytes) else str(v) for v in values]


def _scalar(request, name, kind):
    values = _flat(request, name)
    if len(values) == 0:
        return None
    if len(values) > 1:
        raise ValueError(f"{name} holds {len(values)} values, a request has 1")
    return kind(values[0])


def _flat(request, name):
    tensor = pb_utils.get_input_tensor_by_name(request, name)
    return [] if tensor is None else tensor.as_numpy().reshape(-1).tolist()
