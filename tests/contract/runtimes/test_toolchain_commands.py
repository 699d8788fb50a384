"""What forge composes for TensorRT-LLM's tools parses, release by release, or is refused usefully.

Each command is parsed twice: with parsers made from the packaged tables, and with those of the
stand-in toolchain, which were written apart from the package for the first and the last release;
the ones between take the stand-in that has their layout. A refusal has to name its pair and give
a command, which is then composed in its turn.
"""

from __future__ import annotations

import argparse
import itertools
import json
import shlex
from collections import Counter
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import pytest

from tests.engine_runtime import engine_checkpoint, engine_runtime, typed_flags
from tests.stand_ins.toolchain import read_table
from tests.stand_ins.toolchain.invocation import parser_of
from trtllm_forge.checkpoint.architectures import known_architectures
from trtllm_forge.checkpoint.contents import Quantization
from trtllm_forge.config.keys import PRECISION_FLAGS
from trtllm_forge.config.load import load_flags
from trtllm_forge.errors import ConfigError
from trtllm_forge.files.resources import data_path
from trtllm_forge.releases.catalogue import read_catalogue

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from trtllm_forge.config.schema import ForgeConfig

RELEASES = (
    *("0.16.0", "0.17.0", "0.18.2", "0.19.0", "0.20.0", "0.21.0"),
    *("1.0.0", "1.1.0", "1.2.0", "1.2.1"),
)
KV_CACHES = (None, "int8", "fp8")
SIZES = tuple((tp_size, pp_size) for tp_size in (1, 2, 4, 8) for pp_size in (1, 2, 4, 8))
MODES: tuple[dict[str, object], ...] = (
    {},
    {"speculative": "lookahead"},
    {"speculative": "prompt_lookup", "lookahead_window": 4},
    {"speculative": "draft_tokens", "max_draft_len": 5},
    {"lora_dir": "/", "lora_target_modules": "attn_q,attn_v", "max_lora_rank": 8},
    {"gather_context_logits": True, "max_beam_width": 4},
    {"gemm_plugin": "auto", "max_num_tokens": 4096, "max_seq_len": 2048, "workers": 3},
)
ENGINE = {name: one for name, one in known_architectures().items() if one.engine_flow}
GPTQ = Quantization(method="gptq", bits=4, group_size=128)
DOWNLOADED, CONVERTED, WORK = Path("/store/hf"), Path("/store/made"), Path("/work/.dir")


class RefusedArgumentsError(Exception):
    """A parser's own words."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """One build that is asked for."""

    release: str
    architecture: str
    precision: str
    kv_cache: str | None = None
    sizes: tuple[int, int] = (1, 1)
    mode: Mapping[str, object]
    sm: str = ""

    @property
    def flags(self) -> dict[str, object]:
        return {
            "model": "org/model",
            "runtime": "trtllm",
            "trtllm_version": self.release,
            "trust_remote_code": ENGINE[self.architecture].converter == "nemotron_nas" or None,
            self.precision: True,
            "kv_cache": self.kv_cache,
            "tp_size": str(self.sizes[0]),
            "pp_size": str(self.sizes[1]),
            **{name: value if value is True else str(value) for name, value in self.mode.items()},
        }

    @property
    def gpu(self) -> str:
        return self.sm or ("sm_100" if self.precision == "nvfp4" else "sm_90")


def compose(case: Case, flags: Mapping[str, object]) -> tuple[Sequence[str], Sequence[str]]:
    """Return the two commands of a build, as the runtime plans them."""
    config = load_flags(flags).config
    assert config.runtime == "trtllm"
    release = read_catalogue().find(config.trtllm_version or "1.2.1").version
    runtime = runtime_of(release, case.architecture, case.gpu)
    asked = config.build.precision
    is_quantized = asked == "int4_gptq" and asked in ENGINE[case.architecture].precisions
    quantization = GPTQ if is_quantized else None
    checkpoint = engine_checkpoint(case.architecture, quantization=quantization)
    runtime.require_support(config, checkpoint)
    convert, built = runtime.stages(config, checkpoint)
    (one,) = convert.commands(WORK, {"download": DOWNLOADED})
    (other,) = built.commands(WORK, {"convert": CONVERTED})
    check_commands(release, case.architecture, one.inner_argv, other.inner_argv, config)
    return one.inner_argv, other.inner_argv


@cache
def runtime_of(release: str, architecture: str, gpu: str) -> Any:
    weights_bytes = 70 << 30
    return engine_runtime(
        release, architecture, gpu_architecture=gpu, gpu_count=8, weights_bytes=weights_bytes
    )


def check_commands(
    release: str,
    architecture: str,
    convert: Sequence[str],
    build: Sequence[str],
    config: ForgeConfig,
) -> None:
    """Parse both commands with both kinds of parser, and hold them to what was asked for."""
    tool = "quantize" if convert[1].endswith("/quantize.py") else "convert_checkpoint"
    family = "" if tool == "quantize" else ENGINE[architecture].converter
    assert convert[0] == "python3"
    assert build[0] == "trtllm-build"
    for origin in ("package", "stand-in"):
        path, parser = parser_for(origin, release, tool, family)
        assert convert[1] == f"/app/{path}"
        made = parse(parser, convert[2:])
        sizes = (getattr(made, "tp_size", None) or made.world_size, getattr(made, "pp_size", 1))
        assert sizes == (config.build.tp_size, config.build.pp_size)
        built = parse(parser_for(origin, release, "trtllm_build", "")[1], build[1:])
        assert built.checkpoint_dir == str(CONVERTED)
        world_size = config.build.tp_size * config.build.pp_size
        assert 1 <= built.workers <= world_size
        assert (built.max_batch_size, built.max_beam_width) == (
            config.build.max_batch_size,
            config.build.max_beam_width,
        )


def parse(parser: argparse.ArgumentParser, argv: Sequence[str]) -> argparse.Namespace:
    options = [word for word in argv if word.startswith("--")]
    assert len(options) == len(set(options)), f"an option is given twice: {shlex.join(argv)}"
    return parser.parse_args(argv)


@cache
def parser_for(
    origin: str, release: str, tool: str, family: str
) -> tuple[str, argparse.ArgumentParser]:
    """Return where a script lies below TensorRT-LLM's folder, and its parser."""
    line = ".".join(release.split(".")[:2])
    if origin == "package":
        document = json.loads(data_path(f"flags/{tool}.json").read_text(encoding="utf-8"))
        table = document["snapshots"][document["releases"][line]["snapshot"]]
        table = table["families"][family] if family else table
        parser = packaged_parser(table["flags"])
        path = table.get("path", "")
    else:
        # quantize.py of 0.17 and 0.18 was not read; the converters moved in 0.20.
        is_old = line in ("0.16", "0.17", "0.18") or (line == "0.19" and tool != "quantize")
        near = read_table("0.16" if is_old else "1.2")
        row = near["converters"][family] if family else near[tool.replace("_", "-")]
        parser, path = parser_of(tool, row["arguments"]), row.get("path", "")
    parser.error = refuse  # type: ignore[method-assign]
    return path, parser


def packaged_parser(flags: Sequence[Mapping[str, Any]]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(allow_abbrev=False)
    kinds = {"int": int, "float": float}
    for flag in flags:
        spellings = (flag["name"], *flag.get("aliases", ()))
        if flag["type"] == "flag":
            parser.add_argument(*spellings, action="store_true")
            continue
        kept = {key: flag[key] for key in ("choices", "nargs", "const") if key in flag}
        kind = kinds.get(flag["type"], str)
        parser.add_argument(*spellings, type=kind, required=flag.get("required", False), **kept)
    return parser


def refuse(message: str) -> NoReturn:
    raise RefusedArgumentsError(message)


def check_refusal(case: Case, error: ConfigError) -> None:
    """Hold a refusal to its words, then type what it proposes until that is composed."""
    names = (case.precision, str(case.kv_cache), ENGINE[case.architecture].name, "_size", "lora")
    words = (*names, "speculative", "lookahead", "gather_context_logits", "beam")
    text = f"{error.what} {error.why}"
    assert any(word in text for word in words), text
    hint = error.hint
    for _ in range(4):
        assert hint, f"{case}: {error}"
        refused = refusal(case, typed_flags(hint))
        if refused is None:
            return
        hint = refused.hint
    pytest.fail(f"{case}: what is proposed is refused again and again: {error.hint}")


def refusal(case: Case, flags: Mapping[str, object]) -> ConfigError | None:
    try:
        compose(case, flags)
    except ConfigError as error:
        return error
    return None


def run_case(case: Case) -> str:
    refused = refusal(case, case.flags)
    if refused is None:
        return "composed"
    check_refusal(case, refused)
    return "refused"


def engine_names(release: str) -> list[str]:
    known = read_catalogue().find(release)
    return [name for name, one in ENGINE.items() if one.has_flow("engine", known)]


def pairs_of(release: str) -> Iterator[Case]:
    """Yield builds in which every two values of two dimensions meet."""
    names = engine_names(release)
    half = RELEASES.index(release) % 2
    for number, (name, precision) in enumerate(itertools.product(names, PRECISION_FLAGS)):
        # The releases in the middle share their tables two by two, and so the cases.
        if release not in ("0.16.0", "1.2.1") and (number + number // 10) % 2 == half:
            continue
        yield Case(
            release=release,
            architecture=name,
            precision=precision,
            kv_cache=KV_CACHES[(number // 10 + number // 30) % 3],
            sizes=SIZES[(number * 7) % 16],
            mode=MODES[(number + number // 7) % len(MODES)],
        )


@pytest.mark.parametrize("release", RELEASES)
def test_every_build_of_a_release_composes_or_proposes_one_that_does(release: str) -> None:
    outcomes = Counter(run_case(case) for case in pairs_of(release))
    assert outcomes["composed"] > 60
