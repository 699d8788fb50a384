"""Read an engine's ``config.json`` by ``trtllm-build``, and write forge's ``engine.json``.

``config.json`` of an engine has three parts: ``version``, ``pretrained_config`` (the TRT-LLM
checkpoint's) and ``build_config``. ``engine.json`` is made from it, and is read by the other models
of a repository, as for the twin::

    {"schema": 1, "runtime": "trtllm", "trtllm_version": "1.2.1", "gpu_architecture": "sm_90",
     "architecture": "GPTBigCodeForCausalLM", "dtype": "float16", "logits_dtype": "float32",
     "quant_algo": "W4A16", "kv_cache_quant_algo": null, "tp_size": 2, "pp_size": 1,
     "max_batch_size": 64, "max_beam_width": 1, "max_num_tokens": 8192, "max_seq_len": 8192,
     "max_input_len": 8191, "vocab_size": 49152, "num_layers": 40, "num_kv_heads": 1,
     "head_dim": 128, "eos_token_ids": [0], "source": {"repo_id": "...", "revision": "..."}}
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from trtllm_forge.checkpoint.contents import read_checkpoint_config
from trtllm_forge.errors import BuildError

if TYPE_CHECKING:
    from pathlib import Path

ENGINE_SCHEMA = 1


@dataclass(frozen=True, kw_only=True)
class ExpectedEngine:
    """The requested engine; None leaves the release's default."""

    version: str
    tp_size: int
    pp_size: int
    max_batch_size: int
    max_seq_len: int | None
    max_num_tokens: int | None
    max_beam_width: int
    precision: str
    quant_algo: str | None


@dataclass(frozen=True, kw_only=True)
class Engine:
    """An engine as described by its ``config.json``.

    Attributes:
        version: The TensorRT-LLM version that built it.
        tp_size: Tensor parallel ranks.
        pp_size: Pipeline parallel ranks.
        dtype: Element type of the activations.
        logits_dtype: Element type of the logits.
        quant_algo: Quantisation of the weights, None for plain ones.
        kv_cache_quant_algo: Quantisation of the KV cache, None for the type of the activations.
        max_batch_size: Requests per step.
        max_seq_len: Prompt plus output tokens of one request.
        max_num_tokens: Tokens per step over all requests.
        max_beam_width: Beams of one request.
        max_draft_len: Draft tokens per step.
        has_paged_context: Whether prompts can be split and shared over blocks.
        rank_files: Names of the engine files that exist and are not empty.
    """

    version: str
    tp_size: int
    pp_size: int
    dtype: str
    logits_dtype: str
    quant_algo: str | None
    kv_cache_quant_algo: str | None
    max_batch_size: int
    max_seq_len: int
    max_num_tokens: int
    max_beam_width: int
    max_draft_len: int
    has_paged_context: bool
    rank_files: tuple[str, ...]

    @property
    def world_size(self) -> int:
        """Return the number of ranks."""
        return self.tp_size * self.pp_size

    def require(self, expected: ExpectedEngine) -> None:
        """Compare the engine with the requested one.

        Raises:
            BuildError: They differ, or a rank's file is missing.
        """
        missing = [
            f"rank{rank}.engine"
            for rank in range(expected.tp_size * expected.pp_size)
            if f"rank{rank}.engine" not in self.rank_files
        ]
        if missing:
            wanted = expected.tp_size * expected.pp_size
            what = f"the engine has {wanted - len(missing)} of {wanted} rank files"
            verb = "is" if len(missing) == 1 else "are"
            why = f"trtllm-build ended without an error, but {', '.join(missing)} {verb} missing "
            why += "or empty"
            raise BuildError(what, why=why)
        names = ["tp_size", "pp_size", "max_batch_size", "max_beam_width"]
        names += [
            name
            for name in ("max_seq_len", "max_num_tokens")
            if getattr(expected, name) is not None
        ]
        if expected.precision not in ("int8_sq", "int4_gptq"):
            # The names of those two include the kind of scales, which the tool chooses.
            names.append("quant_algo")
        differing = [n for n in names if getattr(self, n) != getattr(expected, n)]
        # A local version part, as in 1.2.1+cu13, does not make it another release.
        if self.version.partition("+")[0] != expected.version:
            differing.insert(0, "version")
        if differing:
            what = f"the engine has {_shown(self, differing)}"
            raise BuildError(what, why=f"expected {_shown(expected, differing)}")


def read_engine(engine_dir: Path) -> Engine:
    """Return the engine in ``engine_dir`` as described by its ``config.json``.

    Raises:
        BuildError: Its ``config.json`` is missing or is not an engine's.
    """
    path = engine_dir / "config.json"
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        return _engine(document, engine_dir)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        what = f"{path} is not an engine's configuration"
        raise BuildError(what, why=f"{type(error).__name__}: {error}") from error


def write_engine_document(
    engine_dir: Path, engine: Engine, checkpoint_dir: Path, *, gpu_architecture: str
) -> None:
    """Write ``engine.json`` beside the engine: its properties and its checkpoint."""
    source = json.loads((checkpoint_dir / "checkpoint.json").read_text(encoding="utf-8"))
    checkpoint = read_checkpoint_config(checkpoint_dir)
    document = {
        "schema": ENGINE_SCHEMA,
        "runtime": "trtllm",
        "trtllm_version": engine.version,
        "gpu_architecture": gpu_architecture,
        "architecture": checkpoint.architecture,
        "dtype": engine.dtype,
        "logits_dtype": engine.logits_dtype,
        "quant_algo": engine.quant_algo,
        "kv_cache_quant_algo": engine.kv_cache_quant_algo,
        "tp_size": engine.tp_size,
        "pp_size": engine.pp_size,
        "max_batch_size": engine.max_batch_size,
        "max_beam_width": engine.max_beam_width,
        "max_num_tokens": engine.max_num_tokens,
        "max_draft_len": engine.max_draft_len,
        "max_seq_len": engine.max_seq_len,
        # At least one token must fit after the prompt.
        "max_input_len": engine.max_seq_len - 1,
        "vocab_size": checkpoint.vocab_size,
        "num_layers": checkpoint.num_layers,
        "num_kv_heads": checkpoint.num_kv_heads,
        "head_dim": checkpoint.head_dim,
        "eos_token_ids": list(checkpoint.eos_token_ids),
        "source": {"repo_id": source["repo_id"], "revision": source["revision"]},
    }
    text = json.dumps(document, indent=2, sort_keys=True) + "\n"
    (engine_dir / "engine.json").write_text(text, encoding="utf-8")


def _engine(document: dict[str, Any], engine_dir: Path) -> Engine:
    pretrained, build = document["pretrained_config"], document["build_config"]
    mapping, quantization = pretrained["mapping"], pretrained["quantization"]
    plugins = build["plugin_config"]
    return Engine(
        version=str(document["version"]),
        tp_size=int(mapping["tp_size"]),
        pp_size=int(mapping["pp_size"]),
        dtype=str(pretrained["dtype"]),
        logits_dtype=str(pretrained.get("logits_dtype") or "float32"),
        quant_algo=quantization.get("quant_algo"),
        kv_cache_quant_algo=quantization.get("kv_cache_quant_algo"),
        max_batch_size=int(build["max_batch_size"]),
        max_seq_len=int(build["max_seq_len"] or pretrained["max_position_embeddings"]),
        max_num_tokens=int(build["max_num_tokens"]),
        max_beam_width=int(build["max_beam_width"]),
        max_draft_len=int(build.get("max_draft_len") or 0),
        has_paged_context=bool(plugins.get("use_paged_context_fmha")),
        rank_files=tuple(
            sorted(path.name for path in engine_dir.glob("rank*.engine") if path.stat().st_size)
        ),
    )


def _shown(holder: object, names: list[str]) -> str:
    return ", ".join(f"{name} {getattr(holder, name)}" for name in names)
