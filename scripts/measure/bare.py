"""The engine loop without Triton, a process of its own: the same load, called directly.

It reads a ``LoadPlan``, ``repository`` and ``fast_math`` as JSON from stdin and writes ``Rates``
to stdout. The modules and all settings are those of the rendered repository.
"""

from __future__ import annotations

import itertools
import json
import queue
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from scripts.measure.streams import LoadPlan, Stream, prompt, rates


def rendered_engine(repository_dir: Path, *, fast_math: bool) -> Any:
    """Return a repository's engine, set as its configuration says, but for fast math."""
    from google.protobuf.json_format import MessageToDict

    from trtllm_forge.triton.repository.repository import parse_model_config

    model_dir = repository_dir / "tensorrt_llm"
    config = MessageToDict(
        parse_model_config(model_dir / "config.pbtxt"), preserving_proto_field_name=True
    )
    sys.path.insert(0, str(model_dir / "1"))
    from engine import Engine  # type: ignore[import-not-found]
    from engine_process import engine_settings  # type: ignore[import-not-found]
    from model_folder import ModelFolder  # type: ignore[import-not-found]

    folder = ModelFolder(
        {"model_config": json.dumps(config), "model_repository": str(model_dir.absolute())}
    )
    return Engine(**{**engine_settings(folder), "fast_math": fast_math})


def bare_loop(repository_dir: Path, load: _Load, *, fast_math: bool) -> Any:
    """Return a repository's engine loop, which runs what the load gives it."""
    engine = rendered_engine(repository_dir, fast_math=fast_math)
    from engine_loop import EngineLoop  # type: ignore[import-not-found]

    return EngineLoop(engine, load.inbox, emit=load.take, after_step=lambda: None)


class _Load:
    """Keeps as many generations in the loop as there are slots; in its inbox at first."""

    def __init__(self, tokenizer: Any, plan: LoadPlan) -> None:
        self._tokenizer = tokenizer
        self._plan = plan
        self._numbers = itertools.count(plan.first_prompt)
        self._open_slots = plan.concurrency
        self._stream_of: dict[int, Stream] = {}
        self.end_s = 0.0
        self.streams: list[Stream] = []
        self.failure: str | None = None
        self.inbox: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def start(self) -> None:
        """Fill the slots; the time of the load runs from here."""
        self.end_s = time.perf_counter() + self._plan.warm_up_s + self._plan.window_s
        for slot in range(self._plan.concurrency):
            self._send(self._plan.first_length(slot))

    def take(self, generation: Any, chunk: Any) -> None:
        """Note a chunk; a stream's last one makes room for the next."""
        now_s = time.perf_counter()
        if chunk.error:
            self.failure = chunk.error
            self.inbox.put(None)
            return
        self._stream_of[generation.key].chunks.append((now_s, len(chunk.ids)))
        if not chunk.is_final:
            return
        if now_s < self.end_s:
            self._send(self._plan.output_tokens)
            return
        self._open_slots -= 1
        if self._open_slots == 0:
            self.inbox.put(None)

    def _send(self, length: int) -> None:
        import numpy as np
        from generation import Generation, Sampling  # type: ignore[import-not-found]

        key = next(self._numbers)
        ids = self._tokenizer.encode(prompt(key)).ids
        stream = Stream(sent_s=time.perf_counter(), expected_tokens=length)
        self.streams.append(stream)
        self._stream_of[key] = stream
        self.inbox.put(
            Generation(
                key=key,
                prompt_ids=np.array(ids, np.int64),
                max_tokens=length,
                sampling=Sampling(),
                end_id=-1,
                stop_words=(),
                want_log_probs=False,
            )
        )


def main() -> None:
    """Run the load that stdin describes."""
    from tokenizers import Tokenizer

    order = json.load(sys.stdin)
    plan = LoadPlan(**order["plan"])
    repository_dir = Path(order["repository"])
    tokenizer_path = repository_dir / "preprocessing" / "1" / "tokenizer" / "tokenizer.json"
    load = _Load(Tokenizer.from_file(str(tokenizer_path)), plan)
    loop = bare_loop(repository_dir, load, fast_math=order["fast_math"])
    load.start()
    loop.run()
    if load.failure:
        raise RuntimeError(load.failure)
    print(json.dumps(asdict(rates(load.streams, load.end_s - plan.window_s, load.end_s))))


if __name__ == "__main__":
    main()
