"""From what a wire received to an answer with times, or to the reason why there is none."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from trtllm_forge.bench.metrics import Answered, Arrival
from trtllm_forge.bench.wire import Failure

if TYPE_CHECKING:
    from collections.abc import Sequence

    from trtllm_forge.bench.wire import Received, Response, Wire

_DRAFTED = "total_draft_tokens"
_ACCEPTED = "total_accepted_draft_tokens"
_REUSED_BLOCKS = ("kv_cache_reused_blocks", "kv_cache_reused_block")


@dataclass(frozen=True, kw_only=True)
class Reading:
    """What one request came to.

    Attributes:
        answered: Its times, if it was answered whole.
        failure: Else the reason.
        text: The text of a model that gives text.
        input_tokens: As the server counts them; None where it does not.
        draft_tokens: Drafted tokens; None where the server does not say.
        accepted_tokens: Those of them that the model took.
        reused_blocks: KV blocks that an earlier request left; None where the server does not say.
        are_tokens_counted: The server counted the output tokens; else a chunk counts as one.
    """

    answered: Answered | None
    failure: Failure | None
    text: str = ""
    input_tokens: int | None = None
    draft_tokens: int | None = None
    accepted_tokens: int | None = None
    reused_blocks: int | None = None
    are_tokens_counted: bool = True


def read_answer(wire: Wire, received: Received) -> Reading:
    """Return the answer in what was received, or why there is none."""
    try:
        responses = wire.read(received)
    except (ValueError, LookupError, TypeError) as error:
        message = f"{type(error).__name__}: {error}"
        return _failed(Failure(kind="unreadable", message=message))
    try:
        arrivals, is_counted = _arrivals(responses)
    except (ValueError, TypeError) as error:
        return _failed(Failure(kind="unreadable", message=f"{type(error).__name__}: {error}"))
    told = next((response.error for response in responses if response.error is not None), None)
    if told is not None:
        return _failed(Failure(kind="broken off" if arrivals else "refused", message=told))
    if received.failure is not None:
        return _failed(received.failure)
    if not arrivals:
        return _failed(Failure(kind="empty", message="the answer has no token"))
    return Reading(
        answered=Answered(
            sent_s=received.sent_s, ended_s=received.ended_s, arrivals=tuple(arrivals)
        ),
        failure=None,
        text="".join(map(_text, responses)),
        input_tokens=_last(responses, "num_input_tokens"),
        draft_tokens=_last(responses, _DRAFTED),
        accepted_tokens=_last(responses, _ACCEPTED),
        reused_blocks=next(
            (blocks for name in _REUSED_BLOCKS if (blocks := _last(responses, name)) is not None),
            None,
        ),
        are_tokens_counted=is_counted,
    )


def _failed(failure: Failure) -> Reading:
    return Reading(answered=None, failure=failure)


def _arrivals(responses: Sequence[Response]) -> tuple[list[Arrival], bool]:
    """Return the chunks that show something, and whether their tokens are counted.

    Tokens whose text is held back, half a character say, count where that text comes: nothing
    was to be seen of them before. Those of a last, empty chunk count with the one before.
    """
    arrivals: list[Arrival] = []
    held = 0
    is_counted = True
    for response in responses:
        if response.error is not None:
            continue
        count = _tokens(response)
        is_visible = bool(_text(response)) if "text_output" in response.tensors else bool(count)
        if count is None and is_visible:
            is_counted = False
            count = 1
        held += count or 0
        if is_visible and held:
            arrivals.append(Arrival(time_s=response.time_s, tokens=held))
            held = 0
    if held and arrivals:
        last = arrivals[-1]
        arrivals[-1] = Arrival(time_s=last.time_s, tokens=last.tokens + held)
    return arrivals, is_counted


def _tokens(response: Response) -> int | None:
    """Return how many tokens are in a response: counted by name, or by the ids' length."""
    for name in ("num_output_tokens", "sequence_length"):
        values = response.tensors.get(name)
        if values:
            return sum(int(value) for value in values)
    ids = response.tensors.get("output_ids")
    return len(ids) if ids else None


def _text(response: Response) -> str:
    return "".join(map(str, response.tensors.get("text_output", ())))


def _last(responses: Sequence[Response], name: str) -> int | None:
    """Return the last value of a tensor: figures of the engine grow over a stream."""
    for response in reversed(responses):
        values = response.tensors.get(name)
        if values:
            return int(values[0])
    return None
