"""The figures of a bench, each worked out by hand on small answers."""

from __future__ import annotations

import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trtllm_forge.bench import metrics
from trtllm_forge.bench.metrics import Answered, Arrival, Distribution, Window


def answered(
    *arrivals: tuple[float, int], sent: float = 0.0, ended: float | None = None
) -> Answered:
    return Answered(
        sent_s=sent,
        ended_s=arrivals[-1][0] if ended is None else ended,
        arrivals=tuple(Arrival(time_s=time_s, tokens=tokens) for time_s, tokens in arrivals),
    )


SINGLE = answered((1.5, 1), (2.0, 1), (3.0, 1), sent=1.0, ended=3.5)
CHUNKED = answered((1.0, 2), (3.0, 4), (3.5, 1), sent=0.5, ended=4.0)


def test_ttft_is_from_sent_to_the_first_arrival() -> None:
    assert metrics.ttft_s(SINGLE) == 0.5
    assert metrics.ttft_s(CHUNKED) == 0.5


def test_e2e_is_from_sent_to_the_end_of_the_answer_and_not_to_its_last_token() -> None:
    assert metrics.e2e_s(SINGLE) == 2.5


def test_tpot_divides_what_follows_the_first_token_by_the_other_tokens() -> None:
    assert metrics.tpot_s(SINGLE) == (2.5 - 0.5) / 2
    assert metrics.tpot_s(CHUNKED) == (3.5 - 0.5) / 6


def test_an_answer_of_one_token_has_no_tpot() -> None:
    assert metrics.tpot_s(answered((1.0, 1))) is None


def test_itl_of_single_tokens_is_the_gaps() -> None:
    assert metrics.itls_s(SINGLE) == metrics.chunk_gaps_s(SINGLE) == [0.5, 1.0]


def test_itl_shares_a_gap_among_the_tokens_of_the_chunk_behind_it() -> None:
    assert metrics.chunk_gaps_s(CHUNKED) == [2.0, 0.5]
    assert metrics.itls_s(CHUNKED) == [0.5, 0.5, 0.5, 0.5, 0.5]


def test_throughput_counts_tokens_where_they_arrived_and_leaves_the_end_out() -> None:
    window = Window(start_s=2.0, end_s=3.5)

    assert metrics.tokens_per_s([SINGLE, CHUNKED], window) == (2 + 4) / 1.5


def test_requests_count_where_they_ended() -> None:
    assert metrics.requests_per_s([SINGLE, CHUNKED], Window(start_s=0.0, end_s=4.0)) == 1 / 4.0


@pytest.mark.parametrize(
    ("limits", "kept"),
    [
        ({}, 2),
        ({"ttft": 0.5}, 2),
        ({"ttft": 0.4}, 0),
        ({"e2e": 3.0}, 1),
        ({"tpot": 0.75}, 1),
        ({"itl": 0.6}, 1),
        ({"gap": 1.5}, 1),
        ({"gap": 1.5, "itl": 0.6}, 0),
    ],
    ids=str,
)
def test_goodput_counts_the_answers_that_keep_every_limit(
    limits: dict[metrics.Quantity, float], kept: int
) -> None:
    window = Window(start_s=0.0, end_s=5.0)

    assert metrics.goodput_per_s([SINGLE, CHUNKED], limits, window) == kept / 5.0


def test_an_answer_in_one_chunk_keeps_limits_on_what_it_does_not_have() -> None:
    assert metrics.keeps(answered((1.0, 1)), {"itl": 1e-9, "gap": 1e-9, "tpot": 1e-9})


def test_percentile_is_linear_between_neighbours() -> None:
    values = [40.0, 10.0, 20.0, 30.0]

    assert metrics.percentile(values, 0.0) == 10.0
    assert metrics.percentile(values, 0.5) == 25.0
    assert metrics.percentile(values, 0.95) == pytest.approx(38.5)
    assert metrics.percentile(values, 1.0) == 40.0


def test_percentile_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^a percentile of no values$"):
        metrics.percentile([], 0.5)


@given(st.lists(st.floats(0, 1e6), min_size=2, max_size=60))
def test_percentiles_agree_with_the_standard_librarys_inclusive_quantiles(
    values: list[float],
) -> None:
    wanted = statistics.quantiles(values, n=100, method="inclusive")

    found = [metrics.percentile(values, part / 100) for part in range(1, 100)]

    assert found == pytest.approx(wanted, abs=1e-6)


def test_distribution_is_of_all_values() -> None:
    assert metrics.distribution([3.0, 1.0, 2.0]) == Distribution(
        count=3, mean=2.0, p50=2.0, p95=2.9, p99=2.98, max=3.0
    )


def test_distribution_of_nothing_is_absent() -> None:
    assert metrics.distribution([]) is None


def test_accepted_draft_length_is_per_step_of_the_engine() -> None:
    # 12 tokens, 8 of them drafted: 4 steps gave a token of their own and took 2 each.
    assert metrics.accepted_draft_length(12, 8) == 2.0


def test_accepted_draft_length_needs_a_step() -> None:
    assert metrics.accepted_draft_length(4, 4) is None
