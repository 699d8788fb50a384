"""Messages between a model and its engine's process."""

from __future__ import annotations

import socket
import threading
from typing import TYPE_CHECKING, Any

import pytest

from tests.template_modules import template_module

if TYPE_CHECKING:
    from collections.abc import Iterator

wire_module = template_module("wire")
DEADLINE_S = 10


@pytest.fixture
def ends() -> Iterator[tuple[Any, Any]]:
    one, other = socket.socketpair()
    with one, other:
        yield wire_module.Wire(one), wire_module.Wire(other)


def received(wire: Any, count: int) -> list[Any]:
    messages: list[Any] = []
    while len(messages) < count:
        messages += wire.receive(DEADLINE_S)
    return messages


def test_messages_arrive_whole_and_in_order(ends: tuple[Any, Any]) -> None:
    ours, theirs = ends
    sent = [("start", (1, b"\x00" * 70_000, None)), ("stop", 1), ("step", [(1, ([2], 0.5))], "é")]
    sender = threading.Thread(target=lambda: [ours.send(message) for message in sent])
    sender.start()
    assert received(theirs, len(sent)) == sent
    sender.join(DEADLINE_S)


def test_nothing_is_an_empty_list(ends: tuple[Any, Any]) -> None:
    assert ends[0].receive(0) == []


def test_end_of_the_other_side_is_an_error(ends: tuple[Any, Any]) -> None:
    ours, theirs = ends
    theirs.shut_down()
    with pytest.raises(EOFError):
        ours.receive(DEADLINE_S)


def test_two_ends_that_send_much_at_once_do_not_wait_for_each_other(
    ends: tuple[Any, Any],
) -> None:
    large = [("step", b"x" * 300_000, number) for number in range(20)]
    got: dict[int, list[Any]] = {}

    def send_all_then_read(index: int) -> None:
        for message in large:
            ends[index].send_and_receive(message)
        got[index] = received(ends[index], len(large))

    threads = [threading.Thread(target=send_all_then_read, args=(index,)) for index in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(DEADLINE_S)
    assert got == {0: large, 1: large}
