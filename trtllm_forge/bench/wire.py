"""The ways a request can travel, behind one Protocol.

A wire does as little as it can while a load runs, because it often shares the machine with the
server: it notes when bytes came and keeps them. ``read`` makes sense of them afterwards.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol

from trtllm_forge.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from trtllm_forge.bench.target import Target
    from trtllm_forge.triton.client.address import ServerUrls

FailureKind = Literal["refused", "broken off", "disconnected", "timeout", "unreadable", "empty"]
"""``refused``: an error instead of a first token. ``broken off``: an error after it.
``disconnected``: the connection was refused or lost. ``empty``: an answer without a token."""

MODULES = {"http": "http_wire", "grpc": "grpc_wire"}
"""Name on the command line to the module of this package that has a function ``open_wire``."""


@dataclass(frozen=True, kw_only=True)
class Failure:
    """Why a request has no whole answer."""

    kind: FailureKind
    message: str


@dataclass(kw_only=True)
class Received:
    """What came back for one request, as it came.

    Attributes:
        sent_s: When the request was handed to the system.
        ended_s: When the end of the answer was received, or the failure noticed.
        pieces: Time and bytes of each piece.
        failure: Why the answer is not whole, as far as the wire itself could tell.
    """

    sent_s: float
    ended_s: float = 0.0
    pieces: list[tuple[float, bytes]] = field(default_factory=list)
    failure: Failure | None = None


@dataclass(frozen=True, kw_only=True)
class Response:
    """One response of the model: its tensors' values, flat, by name; or its error."""

    time_s: float
    tensors: Mapping[str, Sequence[Any]]
    error: str | None = None


class Wire(Protocol):
    """Sends requests and gives back what came; used in one event loop."""

    def encode(self, target: Target, inputs: Mapping[str, Any]) -> bytes:
        """Return a request as it travels; done before its time is taken.

        ``inputs`` are values of the target's tensors; a list is a tensor of one row.
        """

    async def send(self, message: bytes) -> Received:
        """Send a request and wait for the end of its answer; never raises for a failure."""

    def read(self, received: Received) -> list[Response]:
        """Return the responses in what was received.

        Raises:
            ValueError: It is not what this wire carries.
        """

    async def close(self) -> None:
        """Close the connections."""


def open_wire(name: str, urls: ServerUrls, *, timeout_s: float) -> Wire:
    """Return the wire of that name to a server; made within a running event loop.

    Raises:
        ConfigError: The server's address for it is not known.
    """
    if name not in MODULES:
        what = f"there is no protocol {name}"
        why = f"forge bench speaks {', '.join(MODULES)}"
        raise ConfigError(what, why=why, hint="forge bench --protocol http")
    module = importlib.import_module(f"trtllm_forge.bench.{MODULES[name]}")
    wire: Wire = module.open_wire(urls, timeout_s=timeout_s)
    return wire
