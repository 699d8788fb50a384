"""The engine loop without Triton, a process of its own: the same load, called directly.

It reads a ``LoadPlan``, ``repository`` and ``fast_math`` as JSON from stdin and writes ``Rates``
to stdout. The modules and all settings are those of the rendered repository.
"""

from __future__ import annotations

import itertools
import json
import sys
import threading
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from scripts.measure.streams import LoadPlan, Stream, prompt, rates


class BareLoop:
    """A repository's engine and the thread that steps it."""

    def __init__(self, repository_dir: Path, *, fast_math: bool) -> None:
        from trtllm_forge.triton.repository import parse_model_config

        model_dir = repository_dir / "tensorrt_llm"
        config = parse_model_config(model_dir / "config.pbtxt")
        parameters = {key: value.string_value for key, value in config.parameters.items()}
        sys.path.insert(0, str(model_dir / "1"))
        from engine import Engine  # type: ignore[import-not-found]
        from engine_loop import EngineLoop  # type: ignore[import-not-found]

        engine_dir = repository_dir / parameters["gpt_model_path"]
        kv_tokens = parameters.get("max_tokens_in_paged_kv_cache")
        engine = Engine(
            engine_dir,
            json.loads((engine_dir / "engine.json").read_text(encoding="utf-8")),
            max_batch_size=config.max_batch_size,
            max_num_tokens=int(parameters["max_num_tokens"]),
            kv_fraction=float(parameters["kv_cache_free_gpu_mem_fraction"]),
            max_kv_tokens=int(kv_tokens) if kv_tokens else None,
            block_reuse=parameters["enable_kv_cache_reuse"] == "true",
            chunked_context=parameters["enable_chunked_context"] == "true",
            fast_math=fast_math,
        )
        self.loop = EngineLoop(engine, cancellation_check_period_s=0.1, after_step=lambda: None)


class _Load:
    """Keeps as many generations in flight as there are slots."""

    def __init__(self, loop: Any, tokenizer: Any, plan: LoadPlan) -> None:
        self._loop = loop
        self._tokenizer = tokenizer
        self._plan = plan
        self._numbers = itertools.count(plan.first_prompt)
        self._open_slots = plan.concurrency
        self.end_s = time.perf_counter() + plan.warm_up_s + plan.window_s
        self.streams: list[Stream] = []
        self.failure: str | None = None
        self.over = threading.Event()
        for slot in range(plan.concurrency):
            self._start(plan.first_length(slot))

    def _start(self, length: int) -> None:
        import numpy as np
        from generation import Generation, Sampling  # type: ignore[import-not-found]

        ids = self._tokenizer.encode(prompt(next(self._numbers))).ids
        stream = Stream(sent_s=time.perf_counter(), expected_tokens=length)
        self.streams.append(stream)
        generation = Generation(
            request_id="",
            prompt_ids=np.array(ids, np.int64),
            max_tokens=length,
            sampling=Sampling(),
            end_id=-1,
            stop_words=(),
            streaming=True,
            want_log_probs=False,
            deadline=None,
            is_cancelled=lambda: False,
            sink=lambda chunk: self._take(stream, chunk),
        )
        self._loop.submit(generation)

    def _take(self, stream: Stream, chunk: Any) -> None:
        now_s = time.perf_counter()
        if chunk.error:
            self.failure = chunk.error
            self.over.set()
            return
        stream.chunks.append((now_s, len(chunk.ids)))
        if not chunk.is_final:
            return
        if now_s < self.end_s:
            self._start(self._plan.output_tokens)
            return
        self._open_slots -= 1
        if self._open_slots == 0:
            self.over.set()


def main() -> None:
    """Run the load that stdin describes."""
    from tokenizers import Tokenizer

    order = json.load(sys.stdin)
    plan = LoadPlan(**order["plan"])
    repository_dir = Path(order["repository"])
    tokenizer_path = repository_dir / "preprocessing" / "1" / "tokenizer" / "tokenizer.json"
    bare = BareLoop(repository_dir, fast_math=order["fast_math"])
    load = _Load(bare.loop, Tokenizer.from_file(str(tokenizer_path)), plan)
    load.over.wait()
    bare.loop.close()
    if load.failure:
        raise RuntimeError(load.failure)
    print(json.dumps(asdict(rates(load.streams, load.end_s - plan.window_s, load.end_s))))


if __name__ == "__main__":
    main()
