"""Says how far the twin's greedy text agrees with transformers', by precision.

    python scripts/agreement.py [--precision fp16 int8 int4] [--fast-math] [--json]

Builds the sample in each precision, lets each twin's own engine and transformers continue 20
prompts by 32 tokens, and counts equal texts and equal leading tokens. The fp16 twin computes
exactly, so there every text has to be equal; compressed weights are a different model.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from scripts.measure.bare import rendered_engine

TOKENS = 32
PROMPTS = (
    "def fibonacci(n):\n    ",
    "import os\nimport sys\n\ndef main():\n",
    "class Foo:\n    def __init__(self, ",
    "for i in range(10):\n    ",
    "def read_json(path):\n    with open(path) as f:\n        ",
    "try:\n    import ",
    "if __name__ == '__main__':\n    ",
    "    return self._",
    "def test_",
    "class TestCase(unittest.TestCase):\n    def test_a(self):\n        ",
    "x = [",
    "import re\n\nPATTERN = re.compile(",
    "async def fetch(",
    "@property\ndef name(self):\n    ",
    "raise ValueError(",
    "with open('a') as f:\n    for line in f:\n        ",
    "def add(a, b):\n    return a + b\n\ndef sub(",
    "logger = ",
    '"""Module docstring."""\n\n',
    "while True:\n    try:\n        ",
)


def build(precision: str, output_dir: Path, *, fast_math: bool) -> Path:
    """Build the sample in one precision and return its repository."""
    command = [sys.executable, "-m", "trtllm_forge", "build", "sample", f"--{precision}"]
    command += ["--output", str(output_dir / precision), "--quiet"]
    command += ["--fast-math"] if fast_math else []
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return output_dir / precision


def continue_with_twin(repository_dir: Path, prompts: list[list[int]], fast_math: bool) -> Any:
    """Return the twin's continuation of each prompt, all in flight at once, and its seconds."""
    import numpy as np

    engine = rendered_engine(repository_dir, fast_math=fast_math)
    generation_module = importlib.import_module("generation")  # the repository's own

    started = time.monotonic()
    handles = []
    for key, ids in enumerate(prompts):
        generation = generation_module.Generation(
            key=key,
            prompt_ids=np.array(ids, np.int64),
            max_tokens=TOKENS,
            sampling=generation_module.Sampling(),
            end_id=0,
            stop_words=(),
            want_log_probs=False,
        )
        handles.append(engine.start(generation))
    while engine.pipeline.has_non_finished_requests():
        engine.pipeline.step()
    tokens = [_without_end(handle.read_all()[0].generated_ids) for handle in handles]
    return tokens, time.monotonic() - started


def continue_with_transformers(checkpoint_dir: Path, prompts: list[list[int]]) -> list[list[int]]:
    """Return transformers' continuation of each prompt, one after another, in float32."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(checkpoint_dir, dtype=torch.float32)
    continued = []
    for ids in prompts:
        inputs = torch.tensor([ids])
        output = model.generate(
            inputs,
            attention_mask=torch.ones_like(inputs),
            max_new_tokens=TOKENS,
            do_sample=False,
            pad_token_id=0,
        )
        continued.append(_without_end(output[0][len(ids) :].tolist()))
    return continued


def _without_end(ids: list[int]) -> list[int]:
    return ids[:-1] if ids and ids[-1] == 0 else list(ids)


def _equal_start(left: list[int], right: list[int]) -> int:
    pairs = enumerate(zip(left, right, strict=False))
    return next((at for at, (a, b) in pairs if a != b), min(len(left), len(right)))


def reference_texts() -> list[tuple[str, str]]:
    """Return each prompt with the text transformers continues it by."""
    from tokenizers import Tokenizer

    from trtllm_forge.files.resources import sample_checkpoint_dir

    checkpoint_dir = sample_checkpoint_dir()
    tokenizer = Tokenizer.from_file(str(checkpoint_dir / "tokenizer.json"))
    ids = [tokenizer.encode(prompt).ids for prompt in PROMPTS]
    texts = map(tokenizer.decode, continue_with_transformers(checkpoint_dir, ids))
    return list(zip(PROMPTS, texts, strict=True))


def measure(precision: str, *, fast_math: bool) -> dict[str, object]:
    """Return how far one precision agrees; run in a process of its own, for its own engine."""
    from tokenizers import Tokenizer

    from trtllm_forge.files.resources import sample_checkpoint_dir

    checkpoint_dir = sample_checkpoint_dir()
    tokenizer = Tokenizer.from_file(str(checkpoint_dir / "tokenizer.json"))
    prompts = [tokenizer.encode(prompt).ids for prompt in PROMPTS]
    with tempfile.TemporaryDirectory() as folder:
        repository_dir = build(precision, Path(folder), fast_math=fast_math)
        twin, seconds = continue_with_twin(repository_dir, prompts, fast_math)
    reference = continue_with_transformers(checkpoint_dir, prompts)
    starts = [_equal_start(a, b) for a, b in zip(twin, reference, strict=True)]
    return {
        "precision": precision,
        "fast_math": fast_math,
        "prompts": len(prompts),
        "equal_texts": sum(a == b for a, b in zip(twin, reference, strict=True)),
        "equal_leading_tokens": round(sum(starts) / sum(map(len, reference)), 3),
        "engine_seconds": round(seconds, 3),
    }


def main() -> None:
    """Print one line per precision, or one JSON document."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--precision", nargs="+", default=["fp16", "int8", "int4"])
    parser.add_argument("--fast-math", action="store_true")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--reference", action="store_true", help="print transformers' texts alone")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.reference:
        print(json.dumps(reference_texts()))
        return
    if arguments.one:
        print(json.dumps(measure(arguments.one, fast_math=arguments.fast_math)))
        return
    rows = []
    for precision in arguments.precision:
        command = [sys.executable, __file__, "--one", precision]
        command += ["--fast-math"] if arguments.fast_math else []
        done = subprocess.run(
            command,
            check=True,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "TRANSFORMERS_VERBOSITY": "error"},
        )
        rows.append(json.loads(done.stdout))
        if not arguments.json:
            row = rows[-1]
            print(
                f"{row['precision']:<5} equal texts {row['equal_texts']:>2} of {row['prompts']}, "
                f"equal leading tokens {row['equal_leading_tokens']:.1%}, "
                f"{row['engine_seconds']:.2f} s in the engine",
                flush=True,
            )
    if arguments.json:
        print(json.dumps({"schema": 1, "rows": rows}))


if __name__ == "__main__":
    main()
