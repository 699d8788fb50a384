"""Model repositories with engines of several ranks, without anything that runs."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


def engine_model(
    root: Path,
    name: str = "tensorrt_llm",
    *,
    tp_size: int = 1,
    pp_size: int = 1,
    participants: str = "",
    rank_files: int | None = None,
) -> Path:
    """Add a model of the C++ backend with its engine, and an ensemble; return the engine."""
    engine_dir = root / name / "1" / "engine"
    engine_dir.mkdir(parents=True)
    mapping = {"world_size": tp_size * pp_size, "tp_size": tp_size, "pp_size": pp_size}
    config = {"version": "1.2.1", "pretrained_config": {"mapping": mapping}, "build_config": {}}
    (engine_dir / "config.json").write_text(json.dumps(config))
    for rank in range(tp_size * pp_size if rank_files is None else rank_files):
        (engine_dir / f"rank{rank}.engine").write_bytes(b"engine")
    parameters = {"gpt_model_path": str(engine_dir)}
    if participants:
        parameters["participant_ids"] = participants
    write_config(root, name, 'backend: "tensorrtllm"', parameters)
    write_config(root, "ensemble", 'platform: "ensemble"', {})
    return engine_dir


def llmapi_model(root: Path, *, tp_size: int = 1, pp_size: int = 1, completes: bool = True) -> None:
    """Add a model over the LLM API."""
    write_config(root, "tensorrt_llm", 'backend: "python"', {})
    version_dir = root / "tensorrt_llm" / "1"
    (version_dir / "model.yaml").write_text(
        f"model: /m\ntensor_parallel_size: {tp_size}\npipeline_parallel_size: {pp_size}\n"
    )
    hook = "    def auto_complete_config(c): ...\n" if completes else "    pass\n"
    (version_dir / "model.py").write_text(f"class TritonPythonModel:\n{hook}")


def twin_model(root: Path) -> None:
    """Add what forge takes for a twin: a model with a meeting place, and an ensemble."""
    write_config(root, "tensorrt_llm", 'backend: "python"', {})
    (root / "tensorrt_llm" / "1" / "rendezvous.py").write_text("")
    write_config(root, "ensemble", 'platform: "ensemble"', {})


def write_config(root: Path, name: str, kind: str, parameters: dict[str, str]) -> None:
    """Write the ``config.pbtxt`` of a model and its version folder."""
    (root / name / "1").mkdir(parents=True, exist_ok=True)
    texts = [
        f'parameters {{ key: "{key}" value: {{ string_value: "{value}" }} }}\n'
        for key, value in parameters.items()
    ]
    (root / name / "config.pbtxt").write_text(f'name: "{name}"\n{kind}\n{"".join(texts)}')
