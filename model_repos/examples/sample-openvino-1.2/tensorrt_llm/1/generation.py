"""What the engine loop works on: generations, and what it says about them. No Triton in here."""

from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np


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

    @property
    def sequences(self):
        """Return how many sequences the engine runs for one prompt."""
        return self.beam_width if self.beam_width > 1 else self.num_return_sequences


@dataclass(eq=False)
class Generation:
    """One prompt on its way through the engine.

    Attributes:
        prompt_ids: The prompt's token ids, int64 ``[L]``.
        max_tokens: Most tokens to generate.
        end_id: The id that ends the text and is no part of it, or -1.
        stop_words: Id sequences after which the generation ends; they are part of it.
        key: A number of its own, by which it is stopped and its chunks are told apart.
        first_scheduled_ns: When the engine took it, on the monotonic clock; 0 before.
        first_token_ns: When its first token came.
        last_token_ns: When its last token so far came.
        tokens: Tokens that came, the end id included, over all its sequences.
        steps: Steps of the engine that brought them.
        generated: The last ids of each sequence, as many as a stop word may need.
    """

    prompt_ids: Any
    max_tokens: int
    sampling: Sampling
    end_id: int
    stop_words: tuple[tuple[int, ...], ...]
    want_log_probs: bool
    key: int = 0
    first_scheduled_ns: int = 0
    first_token_ns: int = 0
    last_token_ns: int = 0
    tokens: int = 0
    steps: int = 0
    generated: dict[int, list[int]] = field(default_factory=dict)

    def message(self):
        """Return what the engine process needs of it, as plain values."""
        return (
            self.key,
            self.prompt_ids.tobytes(),
            self.max_tokens,
            asdict(self.sampling),
            self.end_id,
            self.stop_words,
            self.want_log_probs,
        )

    @classmethod
    def of_message(cls, message):
        """Return the generation that ``message`` describes."""
        key, prompt, max_tokens, sampling, end_id, stop_words, want_log_probs = message
        return cls(
            key=key,
            prompt_ids=np.frombuffer(prompt, np.int64),
            max_tokens=max_tokens,
            sampling=Sampling(**sampling),
            end_id=end_id,
            stop_words=stop_words,
            want_log_probs=want_log_probs,
        )


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
        account: With the final chunk, when the engine took the generation, when its first and
            when its last token came, in nanoseconds; its tokens; those of them that were drafted.
    """

    sequence: int
    ids: list[int]
    log_probs: list[float]
    cum_log_prob: float
    is_final: bool
    error: str | None = None
    account: tuple[int, int, int, int, int] | None = None

    def join(self, later):
        """Append what the same sequence gained after this."""
        self.ids += later.ids
        self.log_probs += later.log_probs
        self.cum_log_prob = later.cum_log_prob or self.cum_log_prob
        self.is_final = later.is_final
        self.account = later.account or self.account

    def message(self):
        """Return it as plain values."""
        return (
            self.sequence,
            self.ids,
            self.log_probs,
            self.cum_log_prob,
            self.is_final,
            self.error,
            self.account,
        )
