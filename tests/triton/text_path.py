"""A real Triton with the models that carry text, around an engine that repeats its prompt."""

from __future__ import annotations

import json
import queue
import random
import shutil
import sysconfig
import uuid
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import numpy as np
import pytest

from tests.checkpoint_builder import write_files
from tests.ports import free_port
from tests.process.recording import RecordingReporter
from tests.rendering import stage
from tests.serving import options_for
from tests.tokenizer_builder import END
from tests.triton.served import Served
from trtllm_forge.config.settings import read_settings
from trtllm_forge.reporter import SilentReporter
from trtllm_forge.serving.server.serve import start_server

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

FRONTS = ("ensemble", "tensorrt_llm_bls")
PROTOCOLS = ("http", "grpc")
NO_LIMIT = 1_000_000
DEADLINE_S = 120
ECHO_ENGINE = Path(__file__).parent.parent / "stand_ins" / "echo_engine.py"

_TYPES = {"text_input": "BYTES", "stop_words": "BYTES", "stream": "BOOL", "seed": "UINT64"}


def render_text_path(root: Path, tokenizer: Any, **options: Any) -> Path:
    """Render a repository with this tokenizer and the engine that repeats its prompt."""
    config = json.dumps({"eos_token": END}).encode()
    files = {"tokenizer.json": tokenizer.to_str().encode(), "tokenizer_config.json": config}
    checkpoint = write_files(root / "checkpoint", files)
    repository_dir = root / "repository"
    repository_dir.mkdir()
    stage("openvino", **options).run(repository_dir, {"download": checkpoint}, SilentReporter())
    engine_dir = repository_dir / "tensorrt_llm" / "1"
    shutil.rmtree(engine_dir)
    engine_dir.mkdir()
    shutil.copyfile(ECHO_ENGINE, engine_dir / "model.py")
    return repository_dir


@contextmanager
def serving_text(root: Path, tokenizer: Any, **options: Any) -> Iterator[Served]:
    """Serve the text path of a tokenizer until the block ends."""
    repository_dir = render_text_path(root, tokenizer, **options)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FORGE_STATE_DIR", str(root / "state"))
        patch.setenv("FORGE_CACHE_DIR", str(root / "cache"))
        options_ = options_for(
            repository_dir,
            http_port=free_port("127.0.0.1"),
            grpc_port=free_port("127.0.0.1"),
            metrics_port=free_port("127.0.0.1"),
        )
        with start_server(options_, read_settings(), RecordingReporter()) as server:
            yield Served(document={"http": server.urls.http, "grpc": server.urls.grpc})


class TextClient:
    """Streams text over one connection of each protocol, one request after the other."""

    def __init__(self, served: Served) -> None:
        import tritonclient.grpc as grpc

        self._served = served
        self._http = httpx.Client(timeout=DEADLINE_S)
        self._answers: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._grpc = grpc.InferenceServerClient(served.grpc)
        self._grpc.start_stream(lambda result, error: self._answers.put(error or result))

    def close(self) -> None:
        """Close both connections."""
        self._grpc.stop_stream()
        self._grpc.close()
        self._http.close()

    def chunks(
        self, protocol: str, front: str, text: str, *, request_id: str | None = None, **more: Any
    ) -> list[str]:
        """Return the pieces in which the answer to ``text`` streams."""
        inputs = {"text_input": text, "max_tokens": NO_LIMIT, "stream": True, **more}
        id_ = str(uuid.uuid4()) if request_id is None else request_id
        return (
            self._over_http(front, id_, inputs)
            if protocol == "http"
            else list(self._over_grpc(front, id_, inputs))
        )

    def _over_http(self, front: str, request_id: str, inputs: dict[str, Any]) -> list[str]:
        url = self._served.url(front, "generate_stream")
        chunks = []
        with self._http.stream("POST", url, json={"id": request_id, **inputs}) as response:
            # Lines end with LF alone here: httpx would also end one at U+2028.
            body = b"".join(response.iter_bytes())
        for line in body.split(b"\n"):
            if line.startswith(b"data:"):
                event = json.loads(line[5:])
                if "text_output" not in event:
                    raise AssertionError(event)
                chunks.append(event["text_output"])
        return chunks

    def _over_grpc(self, front: str, request_id: str, inputs: dict[str, Any]) -> Iterator[str]:
        import tritonclient.grpc as grpc

        tensors = []
        for name, value in inputs.items():
            values = [value] if not isinstance(value, list) else value
            datatype = _TYPES.get(name, "INT32")
            array = (
                np.array([[item.encode() for item in values]], np.object_)
                if datatype == "BYTES"
                else np.array([values], {"BOOL": bool, "UINT64": np.uint64}.get(datatype, np.int32))
            )
            tensor = grpc.InferInput(name, array.shape, datatype)
            tensor.set_data_from_numpy(array)
            tensors.append(tensor)
        self._grpc.async_stream_infer(
            front, tensors, request_id=request_id, enable_empty_final_response=True
        )
        while True:
            answer = self._answers.get(timeout=DEADLINE_S)
            if isinstance(answer, Exception):
                raise answer
            output = answer.as_numpy("text_output")
            if output is not None:
                yield output.flat[0].decode()
            if answer.get_response().parameters["triton_final_response"].bool_param:
                return


def random_texts(seed: int, count: int) -> list[str]:
    """Return random Unicode strings, with more than their share of what is hard."""
    chance = random.Random(seed)
    hard = [*" \n\t\r.,'#", "\r\n", "    ", "\t\t", "你好", "é", "e\u0301", "😀", "한국어"]
    hard += ["👩🏽\u200d🚀", "\u0085", "\u2028", "\ufffd", "\u202e", "n't", " .", "##a", "नमस्ते"]
    hard += ["<0x41>", "<|tool|>"]
    return [
        "".join(
            chance.choice(hard) if chance.random() < 0.6 else _any_character(chance)
            for _ in range(chance.randint(1, 24))
        )
        for _ in range(count)
    ]


def _any_character(chance: random.Random) -> str:
    while True:
        code = chance.randrange(1, chance.choice([0x7F, 0x3000, 0x110000]))
        if not 0xD800 <= code < 0xE000:
            return chr(code)


LANGUAGES = (
    *("py", "pyi", "js", "c", "h", "cpp", "hpp", "html", "css", "md", "json", "rst", "toml"),
    *("sh", "xml", "yaml", "txt", "pyx", "proto", "ts", "jinja", "svg", "cfg", "in"),
)


def source_folders() -> list[Path]:
    """Return where this machine has source files: Python's own and those of its packages."""
    return sorted({Path(sysconfig.get_paths()[name]) for name in ("stdlib", "purelib", "include")})


def source_files(
    largest_bytes: int, folders: Sequence[Path] | None = None
) -> Iterator[tuple[Path, str]]:
    """Give source files and their text, one language after the other in turn."""
    found: dict[str, list[Path]] = {language: [] for language in LANGUAGES}
    for folder in source_folders() if folders is None else folders:
        for path in sorted(folder.rglob("*")):
            language = path.suffix[1:]
            is_fit = language in found and len(found[language]) < 400 and path.is_file()
            if is_fit and 200 <= path.stat().st_size <= largest_bytes:
                found[language].append(path)
    chance = random.Random(7)
    for paths in found.values():
        chance.shuffle(paths)
    while any(found.values()):
        for paths in found.values():
            if not paths:
                continue
            path = paths.pop()
            try:
                yield path, path.read_bytes().decode("utf-8")
            except UnicodeDecodeError:
                continue


@dataclass(frozen=True, kw_only=True)
class RoundTrips:
    """What came back of some texts.

    Attributes:
        streams: How many streams were read.
        chunks: How many pieces of text they had.
        characters: How many characters.
        changed: The streams that gave another text: front, protocol, the text, and what came.
    """

    streams: int
    chunks: int
    characters: int
    changed: list[tuple[str, str, str, list[str]]]


def round_trips(served: Served, texts: list[str]) -> RoundTrips:
    """Stream each text through both fronts by both protocols.

    The ensemble gets several at once. ``tensorrt_llm_bls`` gets one at a time: see ``STEP_S`` of
    the engine for what several do to it.
    """
    workers = {"ensemble": 4, "tensorrt_llm_bls": 1}
    rounds = [(front, protocol) for front in FRONTS for protocol in PROTOCOLS]
    with ThreadPoolExecutor(max(workers.values())) as pool:
        answers = [
            (front, protocol, text, chunks)
            for front, protocol in rounds
            for part in pool.map(
                partial(_answers, served, front, protocol),
                [list(enumerate(texts))[at :: workers[front]] for at in range(workers[front])],
            )
            for text, chunks in part
        ]
    return RoundTrips(
        streams=len(answers),
        chunks=sum(len(chunks) for *_, chunks in answers),
        characters=sum(len(text) for _, _, text, _ in answers),
        changed=[answer for answer in answers if "".join(answer[3]) != answer[2]],
    )


def _answers(
    served: Served, front: str, protocol: str, texts: list[tuple[int, str]]
) -> list[tuple[str, list[str]]]:
    client = TextClient(served)
    try:
        return [(text, client.chunks(protocol, front, text, seed=seed)) for seed, text in texts]
    finally:
        client.close()
