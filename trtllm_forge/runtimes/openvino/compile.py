"""The twin's ``compile`` stage: export a checkpoint to a compressed OpenVINO model.

optimum-intel does the work in a child process, so that forge itself never loads torch. The
artifact holds the OpenVINO model, the tokenizer's files and ``engine.json``::

    {"schema": 1, "runtime": "openvino", "architecture": "GPTBigCodeForCausalLM",
     "precision": "int4", "max_seq_len": 1024, "max_input_len": 1023, "vocab_size": 4096,
     "num_layers": 6, "num_kv_heads": 1, "head_dim": 64, "eos_token_ids": [0],
     "source": {"repo_id": "sample", "revision": "..."}}
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from trtllm_forge.checkpoint.contents import read_checkpoint_config
from trtllm_forge.errors import BuildError
from trtllm_forge.machine.process.command import Command, run_command

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from trtllm_forge.files.digest import JsonValue
    from trtllm_forge.reporter import Reporter

ENGINE_SCHEMA = 1

# Part of the key; increased when the processing after the export changes its bytes.
_FINISH = 2

_ENVIRONMENT = {
    # The checkpoint is already on disk; the tool must not fetch anything else.
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
}


@dataclass(frozen=True, kw_only=True)
class CompileStage:
    """Exports the OpenVINO model.

    Attributes:
        precision: ``fp16``, ``int8`` or ``int4`` weights; serving chooses the arithmetic.
        group_size: Weights per scale in int4.
        int4_ratio: Share of the layers in int4; the rest are int8.
        max_seq_len: Prompt plus output tokens of one request.
        tokenizer_type: The class that converts a SentencePiece model to ``tokenizer.json``.
        trust_remote_code: Whether the checkpoint's own code may run during the export.
        versions: Versions of the packages that make the artifact.
    """

    precision: str
    group_size: int
    int4_ratio: float
    max_seq_len: int
    tokenizer_type: str
    trust_remote_code: bool
    versions: Mapping[str, str]

    @property
    def name(self) -> str:
        """Return the stage's name."""
        return "compile"

    @property
    def parameters(self) -> Mapping[str, JsonValue]:
        """Return what the export depends on."""
        int4: dict[str, JsonValue] = {}
        if self.precision == "int4":
            int4 = {"group_size": self.group_size, "int4_ratio": self.int4_ratio}
        return {
            "schema": ENGINE_SCHEMA,
            "finish": _FINISH,
            "runtime": "openvino",
            "precision": self.precision,
            "max_seq_len": self.max_seq_len,
            "tokenizer_type": self.tokenizer_type,
            "trust_remote_code": self.trust_remote_code,
            **int4,
        }

    @property
    def tool_versions(self) -> Mapping[str, str]:
        """Return the versions of the packages that export."""
        return self.versions

    @property
    def outputs(self) -> Sequence[str]:
        """Return the files that every export has."""
        return ("engine.json", "openvino_model.xml", "openvino_model.bin", "tokenizer.json")

    def commands(self, work_dir: Path, inputs: Mapping[str, Path]) -> Sequence[Command]:
        """Return the export and, if the checkpoint needs it, the tokenizer's conversion."""
        checkpoint_dir = inputs["download"]
        commands = [self._export(work_dir, checkpoint_dir)]
        if checkpoint_dir.is_dir() and not (checkpoint_dir / "tokenizer.json").exists():
            commands.append(self._convert_tokenizer(work_dir, checkpoint_dir))
        return commands

    def run(self, work_dir: Path, inputs: Mapping[str, Path], reporter: Reporter) -> None:
        """Run the export and describe its result in ``engine.json``."""
        for command in self.commands(work_dir, inputs):
            run_command(
                command,
                source=self.name,
                error=BuildError,
                log_path=work_dir.with_suffix(".log"),
                reporter=reporter,
            )
        checkpoint_dir = inputs["download"]
        _forget_machine(work_dir, checkpoint_dir)
        source = json.loads((checkpoint_dir / "checkpoint.json").read_text(encoding="utf-8"))
        checkpoint = read_checkpoint_config(checkpoint_dir)
        document = {
            "schema": ENGINE_SCHEMA,
            "runtime": "openvino",
            "architecture": checkpoint.architecture,
            "precision": self.precision,
            "max_seq_len": self.max_seq_len,
            # At least one token must fit after the prompt.
            "max_input_len": self.max_seq_len - 1,
            "vocab_size": checkpoint.vocab_size,
            "num_layers": checkpoint.num_layers,
            "num_kv_heads": checkpoint.num_kv_heads,
            "head_dim": checkpoint.head_dim,
            "eos_token_ids": list(checkpoint.eos_token_ids),
            "source": {"repo_id": source["repo_id"], "revision": source["revision"]},
        }
        text = json.dumps(document, indent=2, sort_keys=True) + "\n"
        (work_dir / "engine.json").write_text(text, encoding="utf-8")

    def _export(self, work_dir: Path, checkpoint_dir: Path) -> Command:
        # The tool is beside this interpreter, also in a virtual environment.
        tool = Path(sys.executable).parent / "optimum-cli"
        argv = [
            os.fspath(tool),
            *("export", "openvino"),
            *("--model", os.fspath(checkpoint_dir)),
            *("--task", "text-generation-with-past"),
            *("--weight-format", self.precision),
        ]
        if self.precision == "int4":
            argv += ["--group-size", str(self.group_size), "--ratio", str(self.int4_ratio)]
        if self.trust_remote_code:
            argv += ["--trust-remote-code"]
        # The repository's models have their own tokenizer; this one would not be used.
        argv += ["--disable-convert-tokenizer", os.fspath(work_dir)]
        return Command(argv=tuple(argv), inner_argv=tuple(argv), env=_ENVIRONMENT)

    def _convert_tokenizer(self, work_dir: Path, checkpoint_dir: Path) -> Command:
        argv = (
            sys.executable,
            *("-m", "trtllm_forge.runtimes.openvino.convert_tokenizer"),
            *("--tokenizer-type", self.tokenizer_type),
            *(("--trust-remote-code",) if self.trust_remote_code else ()),
            *(os.fspath(checkpoint_dir), os.fspath(work_dir)),
        )
        return Command(argv=argv, inner_argv=argv, env=_ENVIRONMENT)


def _forget_machine(work_dir: Path, checkpoint_dir: Path) -> None:
    """Remove the checkpoint's local path from optimum-intel's config.

    This makes the bytes equal on every machine. The path names the tokenizer used for calibration
    samples, and nothing reads it again.
    """
    path = work_dir / "openvino_config.json"
    if not path.exists():
        return
    document = json.loads(path.read_text(encoding="utf-8"))
    noted = document.get("quantization_config") or {}
    if noted.get("tokenizer") == os.fspath(checkpoint_dir):
        noted["tokenizer"] = None
        text = json.dumps(document, indent=2, sort_keys=True) + "\n"
        path.write_text(text, encoding="utf-8")
