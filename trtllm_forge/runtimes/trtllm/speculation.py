"""Speculative decoding in the engine flow: build options and Triton's parameters."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from trtllm_forge.config.command import build_command
from trtllm_forge.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from trtllm_forge.config.schema import ForgeConfig
    from trtllm_forge.releases.catalogue import Release

_DRAFT_TOKENS = 10
# Before this release, the Triton model has no parameters for the sizes.
_LOOKAHEAD_SINCE = "0.19"


@dataclass(frozen=True, kw_only=True)
class Speculation:
    """A speculative mode.

    Attributes:
        mode: ``trtllm-build``'s name for it, or empty for none.
        max_draft_len: The engine's limit of draft tokens per step.
        parameters: Its parameters of the repository's ``tensorrt_llm`` model.
    """

    mode: str = ""
    max_draft_len: int = 0
    parameters: Mapping[str, str] = field(default_factory=dict)


def choose_speculation(config: ForgeConfig, release: Release) -> Speculation:
    """Return what ``build.speculative`` means in the engine flow; prompt lookup is lookahead.

    Raises:
        ConfigError: The release or another option does not support it.
    """
    build = config.build
    if build.speculative == "none":
        if build.max_draft_len is not None:
            what = f"max_draft_len is {build.max_draft_len}, but speculative is none"
            raise ConfigError(what, hint=build_command(config, speculative="draft_tokens"))
        return Speculation()
    if build.gather_context_logits:
        what = f"gather_context_logits cannot be combined with speculative {build.speculative}"
        why = "trtllm-build rejects logits of the prompt together with draft tokens"
        raise ConfigError(what, why=why, hint=build_command(config, gather_context_logits=False))
    if build.max_beam_width > 1:
        beams = build.max_beam_width
        what = f"max_beam_width is {beams}, but speculative {build.speculative} needs 1"
        raise ConfigError(what, hint=build_command(config, max_beam_width=1))
    if build.speculative == "draft_tokens":
        mode = "draft_tokens_external"
        return Speculation(mode=mode, max_draft_len=build.max_draft_len or _DRAFT_TOKENS)
    if release.is_before(_LOOKAHEAD_SINCE):
        what = f"the Triton models of TensorRT-LLM {release.version} have no lookahead decoding"
        why = f"its parameters exist since {_LOOKAHEAD_SINCE}"
        hint = build_command(config, trtllm_version=f"{_LOOKAHEAD_SINCE}.0")
        raise ConfigError(what, why=why, hint=hint)
    if build.max_draft_len is not None:
        what = f"max_draft_len is {build.max_draft_len}, but lookahead decoding computes it"
        why = "from lookahead_window, lookahead_ngram and lookahead_verification"
        raise ConfigError(what, why=why, hint=build_command(config, max_draft_len=None))
    window, ngram = build.lookahead_window, build.lookahead_ngram
    verification = build.lookahead_verification
    return Speculation(
        mode="lookahead_decoding",
        max_draft_len=lookahead_draft_len(window, ngram, verification),
        parameters={
            "decoding_mode": "lookahead",
            "lookahead_window_size": str(window),
            "lookahead_ngram_size": str(ngram),
            "lookahead_verification_set_size": str(verification),
        },
    )


def lookahead_draft_len(window: int, ngram: int, verification: int) -> int:
    """Return the draft tokens per step of lookahead decoding.

    Args:
        window: Columns of the lookahead branch.
        ngram: Tokens of an n-gram.
        verification: N-grams verified per step.

    Source: NVIDIA/TensorRT-LLM examples/lookahead/README.md, section "Overview".
    """
    if ngram == 1:
        return 0
    return ngram - 2 + (window - 1 + verification) * (ngram - 1)
