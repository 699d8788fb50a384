"""What the engine loop works on: requests, and what it says about them. No Triton in here."""

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Sampling:
    """How tokens are chosen; None leaves the library's default."""

    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    repetition_penalty: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    length_penalty: float | None = None
    diversity_penalty: float | None = None
    early_stopping: bool | None = None
    min_tokens: int | None = None
    seed: int | None = None
    beam_width: int = 1
    num_return_sequences: int = 1


@dataclass(eq=False)
class Generation:
    """One prompt on its way through the engine.

    Attributes:
        request_id: The client's id, empty when it sent none; ``stop`` finds it by this.
        prompt_ids: The prompt's token ids.
        max_tokens: Most tokens to generate.
        end_id: The id that ends the text and is no part of it, or -1.
        stop_words: Id sequences after which the generation ends; they are part of it.
        deadline: Monotonic time in seconds after which it ends with an error, or None.
        is_cancelled: Asked by the loop thread; true once the client has gone.
        sink: Called by the loop thread with every ``Chunk``.
    """

    request_id: str
    prompt_ids: Any
    max_tokens: int
    sampling: Sampling
    end_id: int
    stop_words: tuple[tuple[int, ...], ...]
    streaming: bool
    want_log_probs: bool
    deadline: float | None
    is_cancelled: Any
    sink: Any
    arrival_ns: int = 0
    first_scheduled_ns: int = 0
    first_token_ns: int = 0
    last_token_ns: int = 0
    generated: dict[int, list[int]] = field(default_factory=dict)


@dataclass
class Chunk:
    """What one step brought for one sequence.

    Attributes:
        sequence: Index of the sequence, 0 unless several were asked for.
        ids: New token ids; for beams, which arrive at the end, all of them.
        log_probs: One per id, when asked for.
        cum_log_prob: Sum over the sequence so far, when asked for.
        is_final: Nothing follows for the whole generation.
        error: Why it ended early, or None.
    """

    sequence: int
    ids: list[int]
    log_probs: list[float]
    cum_log_prob: float
    is_final: bool
    error: str | None = None

    def join(self, later):
        """Append what the same sequence gained after this."""
        self.ids += later.ids
        self.log_probs += later.log_probs
        self.cum_log_prob = later.cum_log_prob or self.cum_log_prob
        self.is_final = later.is_final
