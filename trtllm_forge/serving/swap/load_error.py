"""Explains why a model did not load into a running server, from Triton's answer and log."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trtllm_forge.errors import ServerError
from trtllm_forge.triton.launch.startup_log import find_startup_failure

if TYPE_CHECKING:
    from pathlib import Path

    from trtllm_forge.serving.plan.served_set import ServedSet
    from trtllm_forge.triton.client.http import TritonAnswerError
    from trtllm_forge.triton.repository.served_models import ServedRepository


def load_error(
    error: TritonAnswerError,
    model: str,
    repository: ServedRepository,
    served: ServedSet,
    log_path: Path,
    offset: int,
) -> ServerError:
    """Return the error of a model that did not load.

    Args:
        error: Triton's answer.
        model: Its served name.
        repository: Its repository.
        served: The other repositories of the server.
        log_path: Triton's log.
        offset: Size of the log before the load.
    """
    with log_path.open(errors="replace") as log:
        log.seek(offset)
        failure = find_startup_failure(log.read().splitlines())
    short = model.removeprefix(repository.prefix).removesuffix(f".{repository.version}")
    message = failure.message if failure and failure.model else error.what
    known = failure.diagnosis if failure else None
    facts = (failure.place if failure else "", known.cause if known else "")
    with_new = served.with_repository(repository)
    return ServerError(
        with_new.real_paths(f"model {short} of {repository.name} did not load: {message}"),
        why=with_new.real_paths(
            "; ".join(filter(None, (*facts, "what was served before is still served")))
        ),
        hint=known.hint if known else "",
        log_path=log_path,
    )
