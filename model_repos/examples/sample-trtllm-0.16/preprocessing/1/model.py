"""Triton model ``preprocessing``: prompts and word lists to token ids.

One call of the tokenizer serves a whole dynamic batch. A request that cannot be tokenised is
answered with an error of its own; its neighbours in the batch do not notice.
"""

import numpy as np
import triton_python_backend_utils as pb_utils
from model_folder import ModelFolder, load_tokenizer
from word_lists import encode_word_list, split_words


class TritonPythonModel:
    """Shapes below: B rows of the request, L ids of its longest row, V engine vocabulary."""

    def initialize(self, args):
        """Load the tokenizer and the engine's limits."""
        folder = ModelFolder(args)
        loaded = load_tokenizer(folder.path("tokenizer_dir"))
        limits = folder.engine_limits()
        self._tokenizer = loaded.tokenizer
        self._end_id = loaded.end_id
        self._pad_id = loaded.pad_id
        self._add_special_tokens = folder.flag("add_special_tokens", default=True)
        self._max_input_len = limits.get("max_input_len")
        self._vocab_size = limits.get("vocab_size") or self._tokenizer.get_vocab_size()

    def execute(self, requests):
        """Answer a dynamic batch: one response per request, in order."""
        read = [_attempt(self._read, request) for request in requests]
        texts = [text for item in read if isinstance(item, dict) for text in item["texts"]]
        words = [word for item in read if isinstance(item, dict) for word in item["words"]]
        prompts = iter(self._encode(texts, add_special_tokens=self._add_special_tokens))
        word_ids = iter(self._encode(words, add_special_tokens=False))
        responses = []
        for item in read:
            if isinstance(item, dict):
                item["ids"] = [next(prompts) for _ in item["texts"]]
                item["word_ids"] = {word: next(word_ids) for word in item["words"]}
                item = _attempt(self._tensors, item)
            if isinstance(item, Exception):
                error = pb_utils.TritonError(str(item), pb_utils.TritonError.INVALID_ARG)
                responses.append(pb_utils.InferenceResponse(error=error))
            else:
                responses.append(pb_utils.InferenceResponse(output_tensors=item))
        return responses

    def _encode(self, texts, *, add_special_tokens):
        batch = self._tokenizer.encode_batch_fast(texts, add_special_tokens=add_special_tokens)
        return [encoding.ids for encoding in batch]

    def _read(self, request):
        """Return the request's tensors as Python values, with all text that needs ids."""
        query = _tensor(request, "QUERY")
        rows = len(query)
        texts = _decoded(query, "QUERY")
        decoder_query = _tensor(request, "DECODER_QUERY")
        bad_words = split_words(_rows(request, "BAD_WORDS_DICT", rows))
        stop_words = split_words(_rows(request, "STOP_WORDS_DICT", rows))
        bias_words = split_words(_rows(request, "EMBEDDING_BIAS_WORDS", rows))
        weights = _tensor(request, "EMBEDDING_BIAS_WEIGHTS")
        if decoder_query is not None:
            texts = texts + _decoded(decoder_query, "DECODER_QUERY")
        lists = (bad_words, stop_words, bias_words)
        return {
            "rows": rows,
            "texts": texts,
            "words": sorted({word for rows_ in lists for row in rows_ for word in row}),
            "bad_words": bad_words,
            "stop_words": stop_words,
            "bias_words": bias_words,
            "bias_weights": None if weights is None else weights.reshape(rows, -1),
            "output_len": _tensor(request, "REQUEST_OUTPUT_LEN"),
            "end_id": _tensor(request, "END_ID"),
            "pad_id": _tensor(request, "PAD_ID"),
            "extra_id": _tensor(request, "PROMPT_TABLE_EXTRA_ID"),
        }

    def _tensors(self, item):
        rows = item["rows"]
        prompts, decoder_prompts = item["ids"][:rows], item["ids"][rows:]
        self._check_lengths(prompts)
        pad_id = self._pad_id if item["pad_id"] is None else int(item["pad_id"].flat[0])
        end_ids = np.full((rows, 1), self._end_id, np.int32)
        pad_ids = np.full((rows, 1), self._pad_id, np.int32)
        decoder_prompts = decoder_prompts or [[pad_id]] * rows
        input_ids, lengths = _padded(prompts, pad_id)
        decoder_ids, decoder_lengths = _padded(decoder_prompts, pad_id)
        word_ids = item["word_ids"]
        tensors = {
            "INPUT_ID": input_ids,
            "REQUEST_INPUT_LEN": lengths,
            "DECODER_INPUT_ID": decoder_ids,
            "REQUEST_DECODER_INPUT_LEN": decoder_lengths,
            "BAD_WORDS_IDS": encode_word_list(item["bad_words"], word_ids, rows),
            "STOP_WORDS_IDS": encode_word_list(item["stop_words"], word_ids, rows),
            "EMBEDDING_BIAS": self._embedding_bias(item, word_ids),
            "REQUEST_OUTPUT_LEN": item["output_len"],
            "OUT_END_ID": end_ids if item["end_id"] is None else item["end_id"],
            "OUT_PAD_ID": pad_ids if item["pad_id"] is None else item["pad_id"],
        }
        if item["extra_id"] is not None:
            first = item["extra_id"].flat[0]
            is_virtual = input_ids >= self._vocab_size
            tensors["OUT_PROMPT_TABLE_EXTRA_IDS"] = np.where(is_virtual, first, 0).astype(np.uint64)
        return [pb_utils.Tensor(name, value) for name, value in tensors.items()]

    def _check_lengths(self, prompts):
        if not all(prompts):
            raise ValueError("text_input is empty: an engine needs a token to go on from")
        longest = max(map(len, prompts))
        if self._max_input_len and longest > self._max_input_len:
            raise ValueError(
                f"the prompt has {longest} tokens, the engine takes at most {self._max_input_len}"
            )

    def _embedding_bias(self, item, word_ids):
        """Return the bias ``[B, V]``, or ``[B, 0]`` where no words or no weights came."""
        rows, weights = item["rows"], item["bias_weights"]
        if weights is None or not any(item["bias_words"]):
            return np.zeros((rows, 0), np.float32)
        bias = np.zeros((rows, self._vocab_size), np.float32)
        for row, words in enumerate(item["bias_words"]):
            if len(words) != weights.shape[1]:
                raise ValueError(
                    f"embedding_bias_words has {len(words)} words, "
                    f"embedding_bias_weights {weights.shape[1]} weights"
                )
            for word, weight in zip(words, weights[row], strict=True):
                np.add.at(bias[row], word_ids[word], weight)
        return bias


def _attempt(function, argument):
    """Return what the call gives, or the exception it raised: one bad request is one error."""
    try:
        return function(argument)
    except Exception as error:  # whatever it is belongs to this request alone
        return error


def _tensor(request, name):
    tensor = pb_utils.get_input_tensor_by_name(request, name)
    return None if tensor is None else tensor.as_numpy()


def _rows(request, name, rows):
    values = _tensor(request, name)
    return None if values is None else values.reshape(rows, -1)


def _decoded(values, name):
    texts = []
    for value in values.reshape(-1):
        try:
            texts.append(value.decode("utf-8"))
        except UnicodeDecodeError as error:
            raise ValueError(f"{name} is not UTF-8: {error}") from error
    return texts


def _padded(sequences, pad_id):
    """Return ids ``[B, L]``, padded on the right, and lengths ``[B, 1]``, both int32."""
    lengths = np.array([[len(ids)] for ids in sequences], np.int32)
    padded = np.full((len(sequences), int(lengths.max())), pad_id, np.int32)
    for row, ids in zip(padded, sequences, strict=True):
        row[: len(ids)] = ids
    return padded, lengths
