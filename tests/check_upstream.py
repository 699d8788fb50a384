"""Writes upstream's repository of a release from the release's contract, filled in as documented.

What has to be filled is filled; every optional parameter keeps its ``${...}``.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from tests.check_fixtures import ENGINE_CONFIG, TOKENIZER, TOKENIZER_CONFIG, write_json
from tests.rendering import contract_models

if TYPE_CHECKING:
    from pathlib import Path

RELEASES = ("0.16", "0.17", "0.18", "0.19", "0.20", "0.21", "1.0", "1.1", "1.2")
_DOUBLED = "kv_cache_alloc_total_blocks"
_DECOUPLED = ("tensorrt_llm", "tensorrt_llm_bls")


def write_upstream(release: str, folder: Path) -> Path:
    """Write the repository below ``folder``, its engine and tokenizer beside it."""
    write_json(folder / "engine/config.json", {**ENGINE_CONFIG, "version": f"{release}.0"})
    (folder / "engine/rank0.engine").write_bytes(b"engine")
    write_json(folder / "tokenizer/tokenizer.json", TOKENIZER)
    write_json(folder / "tokenizer/tokenizer_config.json", TOKENIZER_CONFIG)
    for name, model in contract_models(release).items():
        version_dir = folder / "models" / name / "1"
        version_dir.mkdir(parents=True)
        if name not in ("ensemble", "tensorrt_llm"):
            (version_dir / "model.py").write_text("class TritonPythonModel:\n    pass\n")
        text = "\n".join(_lines(name, model, folder)) + "\n"
        (version_dir.parent / "config.pbtxt").write_text(text)
    return folder / "models"


def _lines(name: str, model: Any, folder: Path) -> list[str]:
    backends = {"ensemble": 'platform: "ensemble"', "tensorrt_llm": 'backend: "tensorrtllm"'}
    lines = [f'name: "{name}"', backends.get(name, 'backend: "python"'), "max_batch_size: 8"]
    if name in _DECOUPLED:
        lines += ["model_transaction_policy {", "  decoupled: true", "}"]
    if model.get("dynamic_batching", "none") != "none":
        queue = "preferred_batch_size: [ 8 ] max_queue_delay_microseconds: 0"
        lines.append(
            f"dynamic_batching {{ {queue if model['dynamic_batching'] == 'queue' else ''} }}"
        )
    for word in ("input", "output"):
        lines += [f"{word} [", ",\n".join(map(_tensor, model[f"{word}s"])), "]"]
    doubled = [t for t in model["outputs"] if t["name"] == _DOUBLED]
    if name == "ensemble" and doubled:
        lines += ["output [", _tensor(doubled[0]), "]"]
    for key in model["parameters"]:
        value = _value(key, folder)
        lines.append(f'parameters: {{\n  key: "{key}"\n  value: {{ string_value: "{value}" }}\n}}')
    if model.get("steps"):
        steps = ",\n".join(map(_step, model["steps"]))
        lines += ["ensemble_scheduling {", f"  step [\n{steps}\n  ]", "}"]
    else:
        lines += ["instance_group [\n  {\n    count: 1\n    kind : KIND_CPU\n  }\n]"]
    return lines


def _tensor(tensor: dict[str, Any]) -> str:
    lines = [f"    name: {json.dumps(tensor['name'])}", f"    data_type: {tensor['data_type']}"]
    lines.append(f"    dims: [ {', '.join(map(str, tensor['dims']))} ]")
    if "reshape" in tensor:
        lines.append(f"    reshape: {{ shape: [ {', '.join(map(str, tensor['reshape']))} ] }}")
    lines += [
        f"    {flag}: true" for flag in ("optional", "allow_ragged_batch") if tensor.get(flag)
    ]
    return "  {\n" + "\n".join(lines) + "\n  }"


def _value(key: str, folder: Path) -> str:
    filled = {
        "gpt_model_type": "inflight_fused_batching",
        "gpt_model_path": str(folder / "engine"),
        "tokenizer_dir": str(folder / "tokenizer"),
        "tensorrt_llm_model_name": "tensorrt_llm",
        "FORCE_CPU_ONLY_INPUT_TENSORS": "no",
        "executor_worker_path": "/opt/tritonserver/backends/tensorrtllm/trtllmExecutorWorker",
    }
    return filled.get(key, f"${{{key}}}")


def _step(step: dict[str, Any]) -> str:
    lines = [f'      model_name: "{step["model"]}"', "      model_version: -1"]
    for word in ("input", "output"):
        for inner, outer in step[f"{word}s"].items():
            lines.append(
                f'      {word}_map {{\n        key: "{inner}"\n        value: "{outer}"\n      }}'
            )
    return "    {\n" + "\n".join(lines) + "\n    }"
