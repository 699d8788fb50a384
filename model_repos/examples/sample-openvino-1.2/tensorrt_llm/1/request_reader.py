"""Reads the contract's input tensors into orders, and refuses what cannot be honoured."""

import time
from dataclasses import dataclass

import numpy as np
import triton_python_backend_utils as pb_utils
from generation import Generation, Sampling

# The library has nothing that could honour these; a value is refused, an empty one is absent.
_UNSUPPORTED = (
    "encoder_input_features",
    "encoder_output_lengths",
    "draft_input_ids",
    "draft_logits",
    "draft_acceptance_threshold",
    "embedding_bias",
    "runtime_top_p_min",
    "runtime_top_p_reset_ids",
    "return_context_logits",
    "return_generation_logits",
    "return_kv_cache_reuse_stats",
    "prompt_embedding_table",
    "prompt_table_extra_ids",
    "prompt_vocab_size",
    "cross_attention_mask",
    "mrope_rotary_cos_sin",
    "mrope_position_deltas",
    "lora_task_id",
    "lora_weights",
    "lora_config",
    "context_phase_params",
    "skip_cross_attn_blocks",
    "retention_token_range_starts",
    "retention_token_range_ends",
    "retention_token_range_priorities",
    "retention_token_range_durations_ms",
    "retention_decode_priority",
    "retention_decode_duration_ms",
    "guided_decoding_guide_type",
    "guided_decoding_guide",
    "lookahead_window_size",
    "lookahead_ngram_size",
    "lookahead_verification_set_size",
)
_FLOATS = {
    "temperature": "temperature",
    "runtime_top_p": "top_p",
    "repetition_penalty": "repetition_penalty",
    "presence_penalty": "presence_penalty",
    "frequency_penalty": "frequency_penalty",
    "len_penalty": "length_penalty",
    "beam_search_diversity_rate": "diversity_penalty",
}
_INTEGERS = {
    "runtime_top_k": "top_k",
    "min_tokens": "min_tokens",
    "seed": "seed",
    # Their names up to TensorRT-LLM 0.19; a release declares the ones or the others.
    "min_length": "min_tokens",
    "random_seed": "seed",
}


@dataclass(eq=False)
class Order:
    """What a request asks for.

    Attributes:
        request_id: The client's id, empty when it sent none; ``stop`` finds it by this.
        generations: One per row.
        streaming: Tokens are sent as they come, and never the prompt.
        deadline: Monotonic time in seconds after which it ends with an error, or None.
        exclude_input: An answer that is not streamed does not begin with the prompt.
        want_input_count: The number of the prompt's tokens is asked for.
        want_output_count: The number of tokens of each response is asked for.
        want_perf: The engine's clock readings are asked for, with the last response.
    """

    request_id: str
    generations: list[Generation]
    streaming: bool
    deadline: float | None
    exclude_input: bool
    want_input_count: bool
    want_output_count: bool
    want_perf: bool


class RequestReader:
    """Turns a request of B rows into an order of B generations."""

    def __init__(self, *, max_beam_width, is_decoupled, exclude_input):
        self._max_beam_width = max_beam_width
        self._is_decoupled = is_decoupled
        self._exclude_input = exclude_input

    def read(self, request):
        """Return the order of a request.

        Raises:
            ValueError: An input is missing, out of range, or carries a value that this
                engine cannot honour; the text names it.
        """
        _refuse_unsupported(request)
        ids = array(request, "input_ids")
        if ids is None:
            raise ValueError("input_ids is not present in the request")
        output_len = array(request, "request_output_len")
        if output_len is None:
            raise ValueError("request_output_len is not present in the request")
        rows = len(ids)
        if rows > 1 and not self._is_decoupled:
            raise ValueError(
                f"a request of {rows} prompts needs a decoupled model (--decoupled); send one each"
            )
        streaming = wants(request, "streaming")
        if streaming and not self._is_decoupled:
            raise ValueError("streaming needs a decoupled model (forge build --decoupled)")
        lengths = array(request, "input_lengths")
        sampling = self._sampling(request, streaming=streaming)
        timeout_us = request.timeout()
        end_ids = array(request, "end_id")
        stop_words = array(request, "stop_words_list")
        generations = []
        for row in range(rows):
            length = _row_length(ids, lengths, row)
            max_tokens = int(output_len.reshape(-1)[row])
            if max_tokens < 1:
                raise ValueError(f"request_output_len is {max_tokens}, it has to be at least 1")
            generations.append(
                Generation(
                    prompt_ids=np.ascontiguousarray(ids[row, :length], dtype=np.int64),
                    max_tokens=max_tokens,
                    sampling=sampling,
                    end_id=-1 if end_ids is None else int(end_ids.reshape(-1)[row]),
                    stop_words=() if stop_words is None else decode_word_list(stop_words[row]),
                    want_log_probs=wants(request, "return_log_probs"),
                )
            )
        return Order(
            request_id=request.request_id(),
            generations=generations,
            streaming=streaming,
            deadline=time.monotonic() + timeout_us / 1e6 if timeout_us > 0 else None,
            exclude_input=wants(request, "exclude_input_in_output", default=self._exclude_input),
            want_input_count=wants(request, "return_num_input_tokens"),
            want_output_count=wants(request, "return_num_output_tokens"),
            want_perf=wants(request, "return_perf_metrics"),
        )

    def _sampling(self, request, *, streaming):
        values = {}
        for tensor, field in {**_FLOATS, **_INTEGERS}.items():
            read = array(request, tensor)
            if read is not None:
                values[field] = (float if tensor in _FLOATS else int)(read.flat[0])
        early = array(request, "early_stopping")
        beam_width = _integer(request, "beam_width", 1)
        sequences = _integer(request, "num_return_sequences", 1)
        if beam_width > self._max_beam_width:
            raise ValueError(
                f"beam_width is {beam_width}, the model allows at most {self._max_beam_width} "
                "(max_beam_width)"
            )
        if streaming and (beam_width > 1 or sequences > 1):
            raise ValueError(
                "beam_width and num_return_sequences above 1 cannot be streamed: "
                "the engine delivers such sequences at the end only"
            )
        sampling = Sampling(
            **values,
            early_stopping=None if early is None else bool(early.flat[0]),
            beam_width=beam_width,
            num_return_sequences=sequences,
        )
        is_drawn = (sampling.top_k or 0) > 1 or (sampling.top_p or 0.0) > 0
        if sequences > 1 and beam_width == 1 and not is_drawn:
            raise ValueError(
                f"num_return_sequences is {sequences}, which greedy decoding cannot give: "
                "set top_k above 1 or top_p"
            )
        return sampling


def is_stop(request):
    """Return whether the request asks to stop the one with its id."""
    return wants(request, "stop")


def wants(request, name, *, default=False):
    """Return a boolean input's value."""
    value = array(request, name)
    return default if value is None else bool(value.flat[0])


def array(request, name):
    """Return an input as an array, or None when it is absent or empty."""
    tensor = pb_utils.get_input_tensor_by_name(request, name)
    value = None if tensor is None else tensor.as_numpy()
    return None if value is None or value.size == 0 else value


def decode_word_list(row):
    """Return the id sequences of one row ``[2, N]``: ids one after another, and their ends."""
    ids, ends = row
    words, start = [], 0
    for end in ends.tolist():
        if end == -1:
            break
        if not start < end <= len(ids):
            raise ValueError(
                f"a word list ends a word at {end} after one that ended at {start}; "
                f"ends have to rise and stay within {len(ids)}"
            )
        words.append(tuple(ids[start:end].tolist()))
        start = end
    return tuple(words)


def _row_length(ids, lengths, row):
    """Return how many ids of a row count; a single row counts whole, as in TensorRT-LLM."""
    width = ids.shape[1]
    if len(ids) == 1 or lengths is None:
        return width
    length = int(lengths.reshape(-1)[row])
    if not 0 < length <= width:
        raise ValueError(f"input_lengths of row {row} is {length}, its input_ids has {width} ids")
    return length


def _integer(request, name, default):
    value = array(request, name)
    return default if value is None else int(value.flat[0])


def _refuse_unsupported(request):
    for name in _UNSUPPORTED:
        value = array(request, name)
        if value is not None and _carries_value(value):
            raise ValueError(f"{name} carries a value, which the OpenVINO engine cannot honour")
    bad_words = array(request, "bad_words_list")
    if bad_words is not None and any(decode_word_list(row) for row in bad_words):
        raise ValueError("bad_words_list carries words, which the OpenVINO engine cannot honour")
    decay = array(request, "runtime_top_p_decay")
    if decay is not None and float(decay.flat[0]) not in (0.0, 1.0):
        raise ValueError(
            "runtime_top_p_decay carries a value, which the OpenVINO engine cannot honour"
        )


def _carries_value(value):
    if value.dtype == np.object_:
        return any(bytes(item) for item in value.reshape(-1))
    return bool(value.any())
