"""What was received gives the same responses at the right times, however it was cut up."""

from __future__ import annotations

import json
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trtllm_forge.bench.answers import read_answer
from trtllm_forge.bench.http_wire import HttpWire
from trtllm_forge.bench.metrics import Answered, Arrival
from trtllm_forge.bench.target import Target
from trtllm_forge.bench.wire import Failure, Received, Response, open_wire
from trtllm_forge.errors import ConfigError
from trtllm_forge.triton.client.address import ServerUrls
from trtllm_forge.triton.client.http import TensorSpec

HEAD = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
WIRE = HttpWire("http://127.0.0.1:8000", timeout_s=1)


def event(**tensors: object) -> bytes:
    body = b"data: " + json.dumps(tensors).encode() + b"\n\n"
    return f"{len(body):x}\r\n".encode() + body + b"\r\n"


STREAM = (
    HEAD
    + event(text_output="a", num_output_tokens=1)
    + event(text_output="b\r\n0\r\n\r\nc", num_output_tokens=[2])
    + b"0\r\n\r\n"
)


def received(*pieces: bytes, failure: Failure | None = None) -> Received:
    timed = [(float(number), piece) for number, piece in enumerate(pieces, start=1)]
    return Received(sent_s=0.5, ended_s=len(pieces) + 0.5, pieces=timed, failure=failure)


@given(st.lists(st.integers(1, len(STREAM) - 1), max_size=12, unique=True))
def test_a_stream_reads_the_same_however_it_is_cut(cuts: list[int]) -> None:
    places = [0, *sorted(cuts), len(STREAM)]
    pieces = [STREAM[a:b] for a, b in pairwise(places)]

    responses = WIRE.read(received(*pieces))

    assert [response.tensors for response in responses] == [
        {"text_output": ["a"], "num_output_tokens": [1]},
        {"text_output": ["b\r\n0\r\n\r\nc"], "num_output_tokens": [2]},
    ]


def test_an_event_has_the_time_of_the_piece_that_made_it_whole() -> None:
    first = event(text_output="a", num_output_tokens=1)

    responses = WIRE.read(received(HEAD + first[:9], first[9:], b"0\r\n\r\n"))

    assert responses == [
        Response(time_s=2.0, tensors={"text_output": ["a"], "num_output_tokens": [1]})
    ]


def test_an_answer_of_given_length_is_read_for_its_error() -> None:
    body = b'{"error": "no such model"}'
    refusal = b"HTTP/1.1 400 Bad\r\nContent-Length: 26\r\n\r\n" + body

    reading = read_answer(WIRE, received(refusal))

    assert reading.failure == Failure(kind="refused", message="no such model")


def answer_of(*events: bytes, failure: Failure | None = None) -> Answered | Failure | None:
    reading = read_answer(WIRE, received(HEAD, *events, failure=failure))
    return reading.answered or reading.failure


def test_tokens_whose_text_is_held_back_count_where_the_text_comes() -> None:
    found = answer_of(
        event(text_output="", num_output_tokens=1),
        event(text_output="é", num_output_tokens=1),
        event(text_output="", num_output_tokens=3),
    )

    assert found == Answered(sent_s=0.5, ended_s=4.5, arrivals=(Arrival(time_s=3.0, tokens=5),))


def test_a_model_of_ids_is_counted_by_its_sequence_lengths() -> None:
    found = answer_of(
        event(output_ids=[5, 6, 7], sequence_length=3), event(output_ids=[8], sequence_length=1)
    )

    assert found == Answered(
        sent_s=0.5,
        ended_s=3.5,
        arrivals=(Arrival(time_s=2.0, tokens=3), Arrival(time_s=3.0, tokens=1)),
    )


def test_chunks_count_as_a_token_each_where_the_server_counts_none() -> None:
    reading = read_answer(WIRE, received(HEAD, event(text_output="a b"), event(text_output="c")))

    assert not reading.are_tokens_counted
    assert reading.answered is not None
    assert reading.answered.tokens == 2


@pytest.mark.parametrize(
    ("events", "kind"),
    [
        ((event(error="stop"),), "refused"),
        ((event(text_output="a", num_output_tokens=1), event(error="stop")), "broken off"),
        ((event(text_output="", num_output_tokens=0),), "empty"),
        ((b"8\r\ndata: {\n\r\n",), "unreadable"),
        ((b"9\r\ndata: [1]\r\n\n",), "unreadable"),
        ((event(text_output="a", num_output_tokens="x"),), "unreadable"),
    ],
    ids=["refused", "broken-off", "empty", "half-json", "list", "no-number"],
)
def test_what_is_no_answer_is_a_failure_of_its_kind(events: tuple[bytes, ...], kind: str) -> None:
    found = answer_of(*events)

    assert isinstance(found, Failure)
    assert found.kind == kind


def test_a_failure_of_the_wire_stays_one_though_tokens_came() -> None:
    gone = Failure(kind="disconnected", message="gone")

    assert answer_of(event(text_output="a", num_output_tokens=1), failure=gone) == gone


def test_a_request_over_http_names_what_the_model_declares_alone() -> None:
    names = {"text_input": "BYTES", "max_tokens": "INT32", "end_id": "INT32"}
    tensors = {n: TensorSpec(name=n, datatype=d, shape=(-1, 1)) for n, d in names.items()}
    target = Target(model="ensemble", kind="text", tensors=tensors)

    message = WIRE.encode(target, target.inputs("def f", 7, None))

    head, _, body = message.partition(b"\r\n\r\n")
    document = json.loads(body)
    assert head.startswith(b"POST /v2/models/ensemble/generate_stream HTTP/1.1\r\n")
    assert document.pop("id").startswith("forge-")
    assert document == {"text_input": "def f", "max_tokens": 7, "end_id": -1}


def test_grpc_without_an_address_is_refused_with_what_to_type() -> None:
    with pytest.raises(ConfigError) as caught:
        open_wire("grpc", ServerUrls(http="http://127.0.0.1:8000"), timeout_s=1)

    assert (
        caught.value.what == "the gRPC address of the server at http://127.0.0.1:8000 is not known"
    )
    assert caught.value.hint == "forge bench --protocol grpc --grpc 127.0.0.1:8001"


def test_an_unknown_protocol_is_refused_with_those_there_are() -> None:
    with pytest.raises(ConfigError) as caught:
        open_wire("pigeon", ServerUrls(http="http://127.0.0.1:8000"), timeout_s=1)

    assert caught.value.why == "forge bench speaks http, grpc"
