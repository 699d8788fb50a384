"""FL319 to FL321, FL324: parameters that go together, or do not."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from trtllm_forge.check.finding import Problem
from trtllm_forge.check.registry import rule
from trtllm_forge.check.rules.parameters import wrong_value
from trtllm_forge.triton.repository.pbtxt import whole_number

if TYPE_CHECKING:
    from collections.abc import Iterable

    from trtllm_forge.check.view import RepositoryView

_CHOICE_LIST = re.compile(r"\s*(\{\s*\d+(\s*,\s*\d+)*\s*\}\s*,?\s*)+|\s*\[[\[\]\s\d,]*\]\s*")


@rule("FL319", "lookahead-incomplete", "error")
def lookahead_incomplete(view: RepositoryView) -> Iterable[Problem]:
    """Lookahead decoding has its three sizes.

    Why: All three sizes are needed, and only this mode reads them.
    Fix: Give all three sizes and `decoding_mode: lookahead`, or none of them.
    """
    sizes = ("lookahead_window_size", "lookahead_ngram_size", "lookahead_verification_set_size")
    for model in view.of_role("tensorrt_llm"):
        mode = model.setting("decoding_mode")
        given = [size for size in sizes if model.setting(size)]
        is_lookahead = mode is not None and mode.value.strip() == "lookahead"
        if is_lookahead and mode is not None and len(given) not in (0, len(sizes)):
            missing = ", ".join(size for size in sizes if size not in given)
            yield Problem(
                model=model.folder,
                path=model.path,
                line=mode.line,
                message=f"decoding_mode is lookahead, but {missing} is not given",
            )
        elif given and not is_lookahead:
            yield Problem(
                model=model.folder,
                path=model.path,
                line=model.parameters[given[0]].line,
                message=f"{given[0]} is given, and decoding_mode is not lookahead",
                severity="warning",
            )


@rule("FL320", "draft-tree", "error")
def draft_tree(view: RepositoryView) -> Iterable[Problem]:
    """A tree of draft tokens goes with the mode that reads it.

    Why: A tree is a list such as {0}, {0, 0}, {1}, and only its own mode reads it.
    Fix: Write a list such as `{0}, {0, 0}, {1}` for the mode that reads it.
    """
    for model in view.of_role("tensorrt_llm"):
        mode = model.setting("decoding_mode")
        for key, wanted in (("medusa_choices", "medusa"), ("eagle_choices", "eagle")):
            parameter = model.setting(key)
            if parameter is None:
                continue
            if not _CHOICE_LIST.fullmatch(parameter.value):
                yield wrong_value(model, parameter, "expected a list such as {0}, {0, 0}, {1}")
            elif mode is not None and mode.value != wanted:
                yield Problem(
                    model=model.folder,
                    path=model.path,
                    line=parameter.line,
                    message=f"{key} is given, and decoding_mode is {mode.value}",
                    severity="warning",
                )


@rule("FL321", "guided-tokenizer", "error")
def guided_tokenizer(view: RepositoryView) -> Iterable[Problem]:
    """Guided decoding has a description of the tokenizer.

    Why: The C++ backend cannot match a grammar without it.
    Fix: Make the file with upstream's `generate_xgrammar_tokenizer_info.py` and name it.
    """
    for model in view.of_role("tensorrt_llm"):
        backend = model.setting("guided_decoding_backend")
        if backend is None or model.backend != "tensorrtllm":
            continue
        if model.setting("xgrammar_tokenizer_info_path") is None:
            yield Problem(
                model=model.folder,
                path=model.path,
                line=backend.line,
                message=f"guided_decoding_backend is {backend.value}, and "
                "xgrammar_tokenizer_info_path is not given",
            )


@rule("FL324", "beams-accumulated", "error")
def beams_accumulated(view: RepositoryView) -> Iterable[Problem]:
    """accumulate_tokens is used with one beam only.

    Why: The BLS model accumulates the tokens of a single beam and fails for more.
    Fix: Set `accumulate_tokens: false`, or use one beam.
    Upstream: https://github.com/triton-inference-server/tensorrtllm_backend/issues/513
    """
    beams = [m.setting("max_beam_width") for m in view.of_role("tensorrt_llm")]
    widest = max((whole_number(p.value) or 1 for p in beams if p is not None), default=1)
    for model in view.of_role("tensorrt_llm_bls"):
        parameter = model.setting("accumulate_tokens")
        if parameter is None or parameter.value.lower() not in ("true", "1", "t", "yes", "y"):
            continue
        if widest > 1:
            yield Problem(
                model=model.folder,
                path=model.path,
                line=parameter.line,
                message=f"accumulate_tokens is {parameter.value}, and max_beam_width is {widest}",
                severity="warning",
                hint="false",
            )
