"""A stand-in for the module that Triton's python backend gives to models.

It holds requests and tensors, nothing of a server, and knows only what the tests call.
"""

from __future__ import annotations

from typing import Any


class Tensor:
    """A name and an array."""

    def __init__(self, name: str, array: Any) -> None:
        self._name = name
        self._array = array

    def name(self) -> str:
        """Return the name."""
        return self._name

    def as_numpy(self) -> Any:
        """Return the array."""
        return self._array


class Request:
    """The tensors of a request, its id and its timeout in microseconds."""

    def __init__(self, tensors: dict[str, Any], *, request_id: str = "", timeout: int = 0) -> None:
        self.tensors = {name: Tensor(name, array) for name, array in tensors.items()}
        self._request_id = request_id
        self._timeout = timeout

    def request_id(self) -> str:
        """Return the client's id."""
        return self._request_id

    def timeout(self) -> int:
        """Return the timeout in microseconds."""
        return self._timeout


def get_input_tensor_by_name(request: Request, name: str) -> Tensor | None:
    """Return an input, or None when the request has none of that name."""
    return request.tensors.get(name)


TRITONSERVER_RESPONSE_COMPLETE_FINAL = 1


class TritonError:
    """What a request is told went wrong."""

    def __init__(self, message: str) -> None:
        self._message = message

    def message(self) -> str:
        """Return the text."""
        return self._message


class InferenceResponse:
    """Output tensors, or an error."""

    def __init__(
        self, output_tensors: list[Tensor] | None = None, error: TritonError | None = None
    ) -> None:
        self._output_tensors = output_tensors or []
        self.error = error

    def output_tensors(self) -> list[Tensor]:
        """Return the tensors."""
        return self._output_tensors
