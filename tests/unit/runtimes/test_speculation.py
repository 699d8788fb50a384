from __future__ import annotations

import pytest

from tests.engine_runtime import engine_config, typed_flags
from tests.small_stage import printed
from trtllm_forge.config.load import load_flags
from trtllm_forge.errors import ConfigError
from trtllm_forge.releases.catalogue import read_catalogue
from trtllm_forge.runtimes.trtllm.speculation import (
    Speculation,
    choose_speculation,
    lookahead_draft_len,
)


def choose(line: str, version: str = "1.2.1") -> Speculation:
    return choose_speculation(engine_config(line), read_catalogue().find(version))


def test_no_mode_builds_no_room_for_draft_tokens() -> None:
    assert choose("") == Speculation(mode="", max_draft_len=0, parameters={})


@pytest.mark.parametrize("word", ["lookahead", "prompt_lookup"])
def test_prompt_lookup_is_lookahead_decoding_in_the_engine_flow(word: str) -> None:
    line = "--lookahead-window 4 --lookahead-ngram 3 --lookahead-verification 2"
    assert choose(f"--speculative {word} {line}") == Speculation(
        mode="lookahead_decoding",
        max_draft_len=11,
        parameters={
            "decoding_mode": "lookahead",
            "lookahead_window_size": "4",
            "lookahead_ngram_size": "3",
            "lookahead_verification_set_size": "2",
        },
    )


@pytest.mark.parametrize(
    ("sizes", "length"),
    [((7, 7, 7), 83), ((4, 3, 4), 15), ((1, 2, 0), 0), ((5, 1, 5), 0)],
    ids=str,
)
def test_draft_tokens_of_lookahead_follow_upstreams_formula(
    sizes: tuple[int, int, int], length: int
) -> None:
    assert lookahead_draft_len(*sizes) == length


@pytest.mark.parametrize(("line", "length"), [("", 10), ("--max-draft-len 5", 5)])
def test_draft_tokens_of_the_client_have_a_length_of_their_own(line: str, length: int) -> None:
    chosen = choose(f"--speculative draft_tokens {line}")
    assert chosen == Speculation(mode="draft_tokens_external", max_draft_len=length, parameters={})


REFUSALS = {
    "length-without-a-mode": (
        ("--max-draft-len 5", "1.2.1"),
        "error: max_draft_len is 5, but speculative is none\n"
        "  try:  forge build org/model --max-draft-len 5 --speculative draft_tokens",
    ),
    "context-logits": (
        ("--speculative lookahead --gather-context-logits", "1.2.1"),
        "error: gather_context_logits cannot be combined with speculative lookahead\n"
        "  why:  trtllm-build rejects logits of the prompt together with draft tokens\n"
        "  try:  forge build org/model --speculative lookahead --no-gather-context-logits",
    ),
    "beams": (
        ("--speculative draft_tokens --max-beam-width 4", "1.2.1"),
        "error: max_beam_width is 4, but speculative draft_tokens needs 1\n"
        "  try:  forge build org/model --speculative draft_tokens --max-beam-width 1",
    ),
    "release-without-the-parameters": (
        ("--speculative lookahead --trtllm-version 0.18.2", "0.18.2"),
        "error: the Triton models of TensorRT-LLM 0.18.2 have no lookahead decoding\n"
        "  why:  its parameters exist since 0.19\n"
        "  try:  forge build org/model --speculative lookahead --trtllm-version 0.19.0",
    ),
    "length-that-is-derived": (
        ("--speculative prompt_lookup --max-draft-len 5", "1.2.1"),
        "error: max_draft_len is 5, but lookahead decoding computes it\n"
        "  why:  from lookahead_window, lookahead_ngram and lookahead_verification\n"
        "  try:  forge build org/model --speculative prompt_lookup",
    ),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_mode_that_cannot_be_had_is_refused_with_one_that_can(name: str) -> None:
    (line, version), text = REFUSALS[name]
    with pytest.raises(ConfigError) as caught:
        choose(line, version)
    assert printed(caught.value) == (text, 2)
    typed = load_flags(typed_flags(caught.value.hint)).config
    release = read_catalogue().find(typed.trtllm_version or version)
    assert choose_speculation(typed, release).max_draft_len > 0
