"""FL601 to FL619: the tokenizer, its files, and its ids beside the engine's."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trtllm_forge.check.finding import Problem
from trtllm_forge.check.registry import rule
from trtllm_forge.check.tokenizer_folder import TOKENIZER_FILES

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from trtllm_forge.check.model import Model, Parameter
    from trtllm_forge.check.tokenizer_folder import TokenizerFolder
    from trtllm_forge.check.view import RepositoryView

_SLOW_FILES = ("tokenizer.model", "spiece.model", "vocab.json", "vocab.txt")


@rule("FL601", "tokenizer-missing", "error")
def tokenizer_missing(view: RepositoryView) -> Iterable[Problem]:
    """tokenizer_dir names an existing folder.

    Why: A path that does not exist is treated as a name on the Hub.
    Fix: Copy the tokenizer there, or write the path as the server sees it.
    Upstream: https://github.com/triton-inference-server/tensorrtllm_backend/issues/109,
        https://github.com/triton-inference-server/tensorrtllm_backend/issues/62
    """
    for model, parameter, tokenizer in _tokenizers(view):
        place = tokenizer.place
        if tokenizer.is_there or _is_hub_id(parameter.value, model):
            continue
        if place.is_expected or not place.written.startswith("/"):
            yield _problem(model, parameter, place.lack)
        else:
            text = f"{place.written} is not on this machine, so it was not checked"
            yield _problem(model, parameter, text, severity="info")


@rule("FL602", "tokenizer-empty", "error")
def tokenizer_empty(view: RepositoryView) -> Iterable[Problem]:
    """The tokenizer folder holds a tokenizer.

    Why: The models need one of the files in which tokenizers are stored.
    Fix: Copy `tokenizer.json` and `tokenizer_config.json` from the checkpoint.
    Upstream: https://github.com/triton-inference-server/tensorrtllm_backend/issues/297
    """
    for model, parameter, tokenizer in _tokenizers(view):
        if tokenizer.is_there and not tokenizer.has_tokenizer:
            text = f"{parameter.value} holds none of {', '.join(TOKENIZER_FILES)}"
            yield _problem(model, parameter, text)


@rule("FL603", "tokenizer-json", "error")
def tokenizer_json(view: RepositoryView) -> Iterable[Problem]:
    """The tokenizer's files are valid JSON.

    Why: The file is a truncated download or a Git LFS pointer.
    Fix: Download the file again, or run `git lfs pull`.
    """
    for model, parameter, tokenizer in _tokenizers(view):
        for name, mistake in tokenizer.mistakes.items():
            yield _problem(model, parameter, f"{name} cannot be read: {mistake}")


@rule("FL604", "vocabulary", "error")
def vocabulary(view: RepositoryView) -> Iterable[Problem]:
    """All token ids of the tokenizer exist in the engine.

    Why: A larger id reads past the embedding table; the tokenizer belongs to another model.
    Fix: Use the tokenizer of the engine's own checkpoint.
    Upstream: https://github.com/triton-inference-server/tensorrtllm_backend/issues/720
    """
    size = _engine_vocabulary(view)
    if size is None:
        return
    for model, parameter, tokenizer in _tokenizers(view):
        largest = tokenizer.largest_id
        if largest is not None and largest >= size:
            yield _problem(
                model,
                parameter,
                f"the tokenizer has token id {largest}, but the engine knows {size} tokens",
            )


@rule("FL605", "end-token", "warning")
def end_token(view: RepositoryView) -> Iterable[Problem]:
    """The tokenizer has an end token.

    Why: Without an end id, every answer runs to its length limit.
    Fix: Set `eos_token`, or let every request send `end_id`.
    Upstream: https://github.com/triton-inference-server/tensorrtllm_backend/issues/128,
        https://github.com/triton-inference-server/tensorrtllm_backend/issues/47
    """
    for model, parameter, tokenizer in _tokenizers(view):
        if model.role != "preprocessing" or "tokenizer_config.json" not in tokenizer.names:
            continue
        is_known = tokenizer.special_token("eos_token") or "eos_token_id" in tokenizer.config
        if not is_known and tokenizer.config:
            yield _problem(model, parameter, "tokenizer_config.json names no eos_token")


@rule("FL606", "end-token-id", "error")
def end_token_id(view: RepositoryView) -> Iterable[Problem]:
    """The ids of the end and pad tokens exist in the engine.

    Why: An end id out of range never occurs, and a pad id out of range reads past the table.
    Fix: Use the tokenizer of the engine's own checkpoint.
    Upstream: https://github.com/triton-inference-server/tensorrtllm_backend/issues/128
    """
    size = _engine_vocabulary(view)
    for model, parameter, tokenizer in _tokenizers(view):
        if model.role != "preprocessing":
            continue
        for name, number in tokenizer.special_ids.items():
            if size is not None and not 0 <= number < size:
                yield _problem(
                    model,
                    parameter,
                    f"{name} has id {number}, but the engine knows {size} tokens",
                )


@rule("FL607", "tokenizer-from-hub", "warning")
def tokenizer_from_hub(view: RepositoryView) -> Iterable[Problem]:
    """tokenizer_dir is a folder, not a name on the Hub.

    Why: Otherwise every start needs the network and loads whatever the name refers to that day.
    Fix: Download it into the repository and name the folder.
    Upstream: https://github.com/triton-inference-server/tensorrtllm_backend/issues/109
    """
    for model, parameter, tokenizer in _tokenizers(view):
        if not tokenizer.is_there and _is_hub_id(parameter.value, model):
            yield _problem(
                model,
                parameter,
                f"{parameter.value} is loaded from the Hub at each start",
                hint=f"hf download {parameter.value} --local-dir {model.folder}/1/tokenizer",
            )


@rule("FL608", "chat-template", "info")
def chat_template(view: RepositoryView) -> Iterable[Problem]:
    """The tokenizer has a chat template.

    Why: Without one the model completes text but cannot hold a conversation.
    Fix: For completion, nothing. For conversations, copy `chat_template.jinja` from the
        checkpoint.
    Upstream: https://github.com/triton-inference-server/server/issues/8027
    """
    for model, parameter, tokenizer in _tokenizers(view):
        if model.role != "preprocessing" or not tokenizer.has_tokenizer:
            continue
        if not tokenizer.has_chat_template:
            yield _problem(
                model, parameter, "there is no chat template, so the model can only complete text"
            )


@rule("FL609", "remote-code", "warning")
def remote_code(view: RepositoryView) -> Iterable[Problem]:
    """The tokenizer needs no Python code of its own.

    Why: Such code runs with the server's rights, and its files have to be beside the tokenizer.
    Fix: Better, convert it to a `tokenizer.json`. Otherwise read the code and copy it beside
        the tokenizer.
    Upstream: https://github.com/triton-inference-server/tensorrtllm_backend/issues/109
    """
    for model, parameter, tokenizer in _tokenizers(view):
        if tokenizer.config.get("auto_map"):
            yield _problem(
                model,
                parameter,
                "tokenizer_config.json asks for Python code (auto_map)",
                severity=None if any(name.endswith(".py") for name in tokenizer.names) else "error",
            )


@rule("FL610", "tokenizers-differ", "error")
def tokenizers_differ(view: RepositoryView) -> Iterable[Problem]:
    """Preprocessing and postprocessing use the same tokenizer.

    Why: The ids of one tokenizer mean other words to another.
    Fix: Name the same folder in both.
    """
    found: dict[str, tuple[Model, Parameter]] = {}
    for model in (*view.of_role("preprocessing"), *view.of_role("postprocessing")):
        parameter = model.setting("tokenizer_dir")
        if parameter is not None:
            found.setdefault(parameter.value.rstrip("/"), (model, parameter))
    if len(found) < 2:
        return
    (first, _), *others = found.values()
    for model, parameter in others:
        yield _problem(
            model,
            parameter,
            f"tokenizer_dir is {parameter.value}, but {first.folder} has "
            f"{first.parameters['tokenizer_dir'].value}",
            severity="warning",
        )


@rule("FL611", "slow-tokenizer", "info")
def slow_tokenizer(view: RepositoryView) -> Iterable[Problem]:
    """The tokenizer is a fast one.

    Why: Without tokenizer.json, text is tokenized in Python, or the tokenizer is converted at
        each start.
    Fix: Convert it once: `AutoTokenizer.from_pretrained(...).save_pretrained(...)`.
    Upstream: https://github.com/triton-inference-server/tensorrtllm_backend/issues/129
    """
    for model, parameter, tokenizer in _tokenizers(view):
        if model.role != "preprocessing" or "tokenizer.json" in tokenizer.names:
            continue
        if any(name in tokenizer.names for name in _SLOW_FILES):
            yield _problem(model, parameter, "there is no tokenizer.json, so starts are slow")


def _tokenizers(view: RepositoryView) -> Iterator[tuple[Model, Parameter, TokenizerFolder]]:
    for model in view.of_role("preprocessing", "postprocessing", "tensorrt_llm_bls"):
        tokenizer = view.tokenizers.get(model.folder)
        if tokenizer is not None:
            yield model, model.parameters["tokenizer_dir"], tokenizer


def _engine_vocabulary(view: RepositoryView) -> int | None:
    sizes = [engine.vocab_size for engine in view.engines.values()]
    return next((size for size in sizes if size is not None), None)


def _is_hub_id(value: str, model: Model) -> bool:
    parts = value.split("/")
    is_name = len(parts) == 2 and all(parts) and not value.startswith((".", "~", "/"))
    return is_name and parts[0] not in (model.folder, "tokenizer") and not model.is_forges


def _problem(
    model: Model, parameter: Parameter, message: str, *, hint: str = "", severity: str | None = None
) -> Problem:
    return Problem(
        model=model.folder,
        path=model.path,
        line=parameter.line,
        message=message,
        hint=hint,
        severity=severity,  # type: ignore[arg-type]
    )
