"""Triton model ``tensorrt_llm_bls``: text in, exact text out, for clients without request ids.

It calls ``preprocessing`` and the engine itself and keeps the text of every request from its
first to its last token, so characters, spaces and stop strings are right in every chunk.

Requests are coroutines of one event loop. Waiting for an inner response blocks a thread, and
many such threads lose the stub process, so a few of them serve all requests.
"""

import asyncio
import contextlib
import threading
import uuid
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import triton_python_backend_utils as pb_utils
from detokenizer import IncrementalDetokenizer, StopCutter, TokenText
from model_folder import ModelFolder, load_tokenizer
from stop_request import stop_engine

_WAITING_THREADS = 16
_CANCELLATION_CHECK_S = 0.05

_TO_PREPROCESSING = {
    "text_input": "QUERY",
    "decoder_text_input": "DECODER_QUERY",
    "max_tokens": "REQUEST_OUTPUT_LEN",
    "bad_words": "BAD_WORDS_DICT",
    "stop_words": "STOP_WORDS_DICT",
    "embedding_bias_words": "EMBEDDING_BIAS_WORDS",
    "embedding_bias_weights": "EMBEDDING_BIAS_WEIGHTS",
    "end_id": "END_ID",
    "pad_id": "PAD_ID",
    "prompt_table_extra_id": "PROMPT_TABLE_EXTRA_ID",
}
_FROM_PREPROCESSING = {
    "INPUT_ID": "input_ids",
    "REQUEST_INPUT_LEN": "input_lengths",
    "DECODER_INPUT_ID": "decoder_input_ids",
    "REQUEST_DECODER_INPUT_LEN": "decoder_input_lengths",
    "BAD_WORDS_IDS": "bad_words_list",
    "STOP_WORDS_IDS": "stop_words_list",
    "EMBEDDING_BIAS": "embedding_bias",
    "REQUEST_OUTPUT_LEN": "request_output_len",
    "OUT_END_ID": "end_id",
    "OUT_PAD_ID": "pad_id",
    "OUT_PROMPT_TABLE_EXTRA_IDS": "prompt_table_extra_ids",
}
_TO_ENGINE = {
    "top_k": "runtime_top_k",
    "top_p": "runtime_top_p",
    "length_penalty": "len_penalty",
} | {
    name: name
    for name in (
        "temperature",
        "repetition_penalty",
        "min_tokens",
        "presence_penalty",
        "frequency_penalty",
        "seed",
        "return_log_probs",
        "return_context_logits",
        "return_generation_logits",
        "num_return_sequences",
        "beam_width",
        "prompt_embedding_table",
        "prompt_vocab_size",
        "lora_task_id",
        "lora_weights",
        "lora_config",
        "return_perf_metrics",
        "return_num_input_tokens",
        "return_num_output_tokens",
        # Declared by older releases alone, the first two for min_tokens and seed.
        "min_length",
        "random_seed",
        "return_kv_cache_reuse_stats",
        "guided_decoding_guide_type",
        "guided_decoding_guide",
    )
}
_REFUSED = (
    "image_input",
    "image_bytes_input",
    "image_url_input",
    "image_sizes_input",
    "video_bytes_input",
    "num_draft_tokens",
    "use_draft_logits",
)
# Of a non-streamed answer put together from chunks: added up, or laid end to end.
_SUMMED = {"num_output_tokens"}
_JOINED = {"output_log_probs"}


class TritonPythonModel:
    """Shapes: one row per request and one text per sequence."""

    def initialize(self, args):
        """Load the tokenizer and start the event loop."""
        folder = ModelFolder(args)
        policy = folder.config.get("model_transaction_policy", {})
        self._is_decoupled = bool(policy.get("decoupled", False))
        self._engine_model = folder.text("tensorrt_llm_model_name", "tensorrt_llm")
        self._preprocessing_model = folder.text("preprocessing_model_name", "preprocessing")
        self._exclude_input = folder.flag("exclude_input_in_output", default=False)
        self._accumulate = folder.flag("accumulate_tokens", default=False)
        self._token_text = TokenText(
            load_tokenizer(folder.path("tokenizer_dir")).tokenizer,
            skip_special_tokens=folder.flag("skip_special_tokens", default=True),
        )
        self._outputs = [output["name"] for output in folder.config["output"]]
        self._engine_outputs = [name for name in self._outputs if name != "text_output"]
        self._threads = ThreadPoolExecutor(_WAITING_THREADS, thread_name_prefix="waiting")
        self._events = asyncio.new_event_loop()
        self._events_thread = threading.Thread(target=self._events.run_forever, daemon=True)
        self._events_thread.start()

    def execute(self, requests):
        """Start serving each request; a decoupled model answers them later."""
        started = [
            asyncio.run_coroutine_threadsafe(self._serve(request), self._events)
            for request in requests
        ]
        return None if self._is_decoupled else [future.result() for future in started]

    def finalize(self):
        """Stop the event loop and the threads."""
        self._events.call_soon_threadsafe(self._events.stop)
        self._events_thread.join()
        self._threads.shutdown(wait=True, cancel_futures=True)

    async def _serve(self, request):
        """Answer one request; a decoupled model ends it with a flag of its own."""
        sender = request.get_response_sender() if self._is_decoupled else None
        response = None
        try:
            # Closed at once when a send fails, so that the engine does not write for nobody.
            async with contextlib.aclosing(self._answer(request, sender)) as answers:
                async for tensors in answers:
                    response = pb_utils.InferenceResponse(tensors)
                    if sender:
                        sender.send(response)
        except Exception as error:  # whatever it is belongs to this request alone
            response = pb_utils.InferenceResponse(error=pb_utils.TritonError(str(error)))
            if sender:
                sender.send(response)
        if sender:
            sender.send(flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
        return response

    async def _answer(self, request, sender):
        """Give the output tensors of each response."""
        inputs = _inputs(request)
        _check(inputs)
        is_streaming = bool(inputs["stream"].flat[0]) if "stream" in inputs else False
        if is_streaming and not self._is_decoupled:
            raise ValueError("stream needs a decoupled model (forge build --decoupled)")
        stops = [word.decode("utf-8") for word in inputs.get("stop_words", np.array([])).flat]
        stops = [stop for stop in stops if stop]
        # Stop strings are matched on text while it comes, so that nothing runs on in vain.
        streams_engine = (
            self._is_decoupled and (is_streaming or bool(stops)) and not _several(inputs)
        )
        engine_request, request_id, prompt_ids = await self._engine_request(
            request, inputs, streams_engine
        )
        excludes = self._exclude_input
        if "exclude_input_in_output" in inputs:
            excludes = bool(inputs["exclude_input_in_output"].flat[0])
        # A stream never holds the prompt.
        echoes = not (is_streaming or excludes)
        responses = _Responses(self, engine_request)
        stopper = _Stopper(self, request_id)
        watch = asyncio.ensure_future(stopper.stop_when_cancelled(sender or request))
        try:
            if _several(inputs) or not streams_engine:
                async for response in responses:
                    yield self._whole(response, stops, prompt_ids, echoes=echoes)
                return
            text = _Text(self._token_text, stops, prompt_ids, echoes=echoes)
            parts = []
            async for response in responses:
                piece = text.push(_ids(response)[0])
                if is_streaming:
                    if piece or text.stopped:
                        yield self._outputs_of(response, [text.all if self._accumulate else piece])
                else:
                    parts.append(response)
                if text.stopped:
                    break
            rest = text.finish()
            if not is_streaming:
                yield self._outputs_of(_Joined(parts), [text.all])
            elif rest:
                yield [_text_tensor([text.all if self._accumulate else rest])]
        finally:
            watch.cancel()
            if responses.drain():
                await stopper.stop()

    async def _engine_request(self, request, inputs, streams):
        """Run preprocessing; return the request for the engine, its id and the prompt's ids."""
        named = {_TO_PREPROCESSING[n]: v for n, v in inputs.items() if n in _TO_PREPROCESSING}
        outputs = list(_FROM_PREPROCESSING)
        if "prompt_table_extra_id" not in inputs:
            outputs.remove("OUT_PROMPT_TABLE_EXTRA_IDS")
        preprocessing = pb_utils.InferenceRequest(
            model_name=self._preprocessing_model,
            requested_output_names=outputs,
            inputs=[pb_utils.Tensor(name, value) for name, value in named.items()],
        )
        response = await self._wait(preprocessing.exec)
        if response.has_error():
            raise RuntimeError(response.error().message())
        tensors = {
            _FROM_PREPROCESSING[tensor.name()]: tensor.as_numpy()
            for tensor in response.output_tensors()
        }
        tensors |= {_TO_ENGINE[n]: v.reshape(1, -1) for n, v in inputs.items() if n in _TO_ENGINE}
        # Stop strings must not be looked for in the prompt, so its text is put in front here.
        tensors["exclude_input_in_output"] = np.array([[True]])
        tensors["streaming"] = np.array([[streams]])
        request_id = str(uuid.uuid4())
        engine_request = pb_utils.InferenceRequest(
            model_name=self._engine_model,
            request_id=request_id,
            timeout=request.timeout(),
            requested_output_names=["output_ids", "sequence_length", *self._engine_outputs],
            inputs=[pb_utils.Tensor(name, value) for name, value in tensors.items()],
        )
        return engine_request, request_id, tensors["input_ids"][0].tolist()

    def _whole(self, response, stops, prompt_ids, *, echoes):
        """Return the outputs of a response that holds whole sequences."""
        texts = []
        for ids in _ids(response):
            text = _Text(self._token_text, stops, prompt_ids, echoes=echoes)
            text.push(ids)
            text.finish()
            texts.append(text.all)
        return self._outputs_of(response, texts)

    def _outputs_of(self, response, texts):
        passed_on = [t for t in response.output_tensors() if t.name() in self._engine_outputs]
        return [_text_tensor(texts), *passed_on]

    def _wait(self, function, *arguments):
        return self._events.run_in_executor(self._threads, function, *arguments)


class _Stopper:
    """Stops one request of the engine, at most once."""

    def __init__(self, model, request_id):
        self._model = model
        self._request_id = request_id
        self._has_stopped = False

    async def stop_when_cancelled(self, outer):
        """Pass a cancellation of the outer request on to the engine."""
        while not outer.is_cancelled():
            await asyncio.sleep(_CANCELLATION_CHECK_S)
        await self.stop()

    async def stop(self):
        """Ask the engine to stop, and wait for its answer."""
        if not self._has_stopped:
            self._has_stopped = True
            await self._model._wait(stop_engine, self._model._engine_model, self._request_id)


class _Responses:
    """The responses of an inner request, as an asynchronous iterator."""

    def __init__(self, model, inner):
        self._model = model
        self._inner = inner
        self._iterator = None

    async def __aiter__(self):
        wait = self._model._wait
        if not self._model._is_decoupled:
            response = await wait(self._inner.exec)
            _raise_error(response)
            yield response
            return
        self._iterator = iter(await wait(lambda: self._inner.exec(decoupled=True)))
        while (response := await wait(next, self._iterator, None)) is not None:
            _raise_error(response)
            if response.output_tensors():
                yield response
        self._iterator = None

    def drain(self):
        """Let a thread take what still comes, if anything does; return whether it may."""
        iterator, self._iterator = self._iterator, None
        if iterator is not None:
            self._model._threads.submit(lambda: [None for _ in iterator])
        return iterator is not None


class _Joined:
    """The chunks of one sequence as one response."""

    def __init__(self, responses):
        self._responses = responses

    def output_tensors(self):
        """Return each tensor of the last chunk, summed or joined over all where that is meant."""
        last = self._responses[-1].output_tensors() if self._responses else []
        return [self._over_all(tensor) for tensor in last]

    def _over_all(self, tensor):
        name = tensor.name()
        if name not in _SUMMED | _JOINED:
            return tensor
        values = [
            pb_utils.get_output_tensor_by_name(response, name).as_numpy()
            for response in self._responses
        ]
        value = sum(values) if name in _SUMMED else np.concatenate(values, axis=-1)
        return pb_utils.Tensor(name, value)


class _Text:
    """The text of one sequence so far, up to a stop string; behind its prompt's if it echoes."""

    def __init__(self, token_text, stops, prompt_ids, *, echoes):
        self._detokenizer = IncrementalDetokenizer(token_text, [] if echoes else prompt_ids)
        self._cutter = StopCutter(stops)
        self._pieces = [self._detokenizer.push(prompt_ids)] if echoes else []

    @property
    def all(self):
        """The whole text so far."""
        return "".join(self._pieces)

    @property
    def stopped(self):
        """Whether a stop string has come."""
        return self._cutter.stopped

    def push(self, ids):
        """Return the text that these ids add."""
        return self._kept(self._cutter.push(self._detokenizer.push(ids)))

    def finish(self):
        """Return the text that was held back; the sequence has ended."""
        rest = self._cutter.push(self._detokenizer.finish())
        return self._kept(rest + self._cutter.finish())

    def _kept(self, piece):
        self._pieces.append(piece)
        return piece


def _inputs(request):
    return {tensor.name(): tensor.as_numpy() for tensor in request.inputs()}


def _check(inputs):
    if len(inputs["text_input"]) != 1:
        rows = len(inputs["text_input"])
        raise ValueError(f"tensorrt_llm_bls takes one prompt per request, this one has {rows}")
    for name in _REFUSED:
        if name in inputs and inputs[name].size and np.any(inputs[name]):
            raise ValueError(f"{name} carries a value, which this repository cannot honour")


def _several(inputs):
    names = ("beam_width", "num_return_sequences")
    return any(name in inputs and int(inputs[name].flat[0]) > 1 for name in names)


def _ids(response):
    """Return the ids of each sequence of a response, without padding."""
    ids = pb_utils.get_output_tensor_by_name(response, "output_ids").as_numpy()
    lengths = pb_utils.get_output_tensor_by_name(response, "sequence_length").as_numpy()
    # The number of rows is said: it cannot be worked out where every row is empty.
    rows = ids.reshape(lengths.size, ids.shape[-1])
    return [row[:length].tolist() for row, length in zip(rows, lengths.reshape(-1), strict=True)]


def _text_tensor(texts):
    encoded = np.array([text.encode("utf-8") for text in texts], dtype=np.object_)
    return pb_utils.Tensor("text_output", encoded)


def _raise_error(response):
    if response.has_error():
        raise RuntimeError(response.error().message())
