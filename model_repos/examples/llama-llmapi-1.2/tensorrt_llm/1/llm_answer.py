"""From ``RequestOutput`` to the contract's output tensors, one element per sequence.

``text_output`` is the whole text so far, also in a stream; that is the contract of this model.
"""

import numpy as np
import triton_python_backend_utils as pb_utils

_KV_CACHE = {
    "kv_cache_reused_block": ("num_reused_blocks", np.int32),
    "kv_cache_missed_block": ("num_missed_blocks", np.int32),
    "kv_cache_alloc_new_blocks": ("num_new_allocated_blocks", np.int32),
    "kv_cache_alloc_total_blocks": ("num_total_allocated_blocks", np.int32),
    "kv_cache_hit_rate": ("kv_cache_hit_rate", np.float32),
}
_TIMES = ("arrival_time", "first_scheduled_time", "first_token_time", "last_token_time")
_SPECULATION = {
    "acceptance_rate": np.float32,
    "total_accepted_draft_tokens": np.int32,
    "total_draft_tokens": np.int32,
}
_FINAL = pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL


def send_output(sender, output, wanted, *, is_final):
    """Send what a generation has brought so far."""
    tensors = {"text_output": _texts(o.text for o in output.outputs)}
    if "finish_reason" in wanted:
        tensors["finish_reason"] = _texts(o.finish_reason for o in output.outputs)
    if "stop_reason" in wanted:
        tensors["stop_reason"] = _texts(o.stop_reason for o in output.outputs)
    if "cumulative_logprob" in wanted:
        values = [o.cumulative_logprob for o in output.outputs]
        tensors["cumulative_logprob"] = np.array(
            [np.nan if value is None else value for value in values], np.float32
        )
    metrics = getattr(output.outputs[0], "request_perf_metrics", None)
    if metrics is not None:
        tensors.update(_performance(metrics))
    response = pb_utils.InferenceResponse(
        [pb_utils.Tensor(name, value) for name, value in tensors.items()]
    )
    if is_final:
        sender.send(response, flags=_FINAL)
    else:
        sender.send(response)


def send_error(sender, message, code=None):
    """End a request with an error."""
    error = pb_utils.TritonError(message) if code is None else pb_utils.TritonError(message, code)
    sender.send(pb_utils.InferenceResponse(error=error), flags=_FINAL)


def send_cancelled(sender):
    """End a request that its client has given up, or one that asked to stop another."""
    send_error(sender, "Request cancelled by client", pb_utils.TritonError.CANCELLED)


def _texts(values):
    """Return strings ``[sequences]``; what is not known yet is empty."""
    words = ["" if value is None else str(value) for value in values]
    return np.array([word.encode("utf-8") for word in words], np.object_)


def _performance(metrics):
    tensors = {
        name: np.array([getattr(metrics.kv_cache_metrics, attribute)], dtype)
        for name, (attribute, dtype) in _KV_CACHE.items()
    }
    for name in _TIMES:
        reading = getattr(metrics.timing_metrics, name)
        tensors[f"{name}_ns"] = np.array([_nanoseconds(reading)], np.int64)
    for name, dtype in _SPECULATION.items():
        tensors[name] = np.array([getattr(metrics.speculative_decoding, name)], dtype)
    return tensors


def _nanoseconds(reading):
    """Return a ``timedelta`` in whole nanoseconds, without the rounding of a float."""
    seconds = reading.days * 86_400 + reading.seconds
    return seconds * 1_000_000_000 + reading.microseconds * 1_000
