"""A twin served by ``forge serve``, and a small client of Triton's ``generate`` extension."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
import threading
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import httpx

from tests.ports import port_flags

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from tests.twin import TwinWorkshop

STOP_DEADLINE_S = 45


@dataclass(frozen=True, kw_only=True)
class Served:
    """A running server."""

    document: dict[str, Any]

    @property
    def grpc(self) -> str:
        address = str(self.document["grpc"])
        return address.rsplit("/", 1)[-1]

    def url(self, model: str, verb: str) -> str:
        return f"{self.document['http']}/v2/models/{model}/{verb}"

    def generate(self, model: str = "ensemble", /, **inputs: Any) -> dict[str, Any]:
        """Return the one answer of a request that is not streamed, or its error."""
        body = {"id": str(uuid.uuid4()), **inputs}
        answer = httpx.post(self.url(model, "generate"), json=body, timeout=60)
        document: dict[str, Any] = answer.json()
        return document

    def stream(self, model: str = "ensemble", /, **inputs: Any) -> Iterator[dict[str, Any]]:
        """Give the answers of a streamed request as they come."""
        switch = "streaming" if model == "tensorrt_llm" else "stream"
        body = {"id": str(uuid.uuid4()), switch: True, **inputs}
        with httpx.stream(
            "POST", self.url(model, "generate_stream"), json=body, timeout=60
        ) as response:
            for line in response.iter_lines():
                if line.startswith("data:"):
                    yield json.loads(line[5:])

    def inference_counts(self) -> dict[str, int]:
        """Return how many requests each model has run."""
        return {model["name"]: model["inference_count"] for model in self._statistics()}

    def ended_counts(self) -> dict[str, int]:
        """Return how many times each model has ended a request, well or not."""
        return {
            model["name"]: sum(
                model["inference_stats"][end]["count"] for end in ("success", "fail")
            )
            for model in self._statistics()
        }

    def _statistics(self) -> list[dict[str, Any]]:
        answer = httpx.get(f"{self.document['http']}/v2/models/stats", timeout=30)
        statistics: list[dict[str, Any]] = answer.json()["model_stats"]
        return statistics


@contextlib.contextmanager
def serve(workshop: TwinWorkshop, *repositories: Path | str) -> Iterator[Served]:
    """Run ``forge serve`` until the block ends; it has to stop by itself then, with code 0."""
    served = [*map(str, repositories), *port_flags()]
    command = [sys.executable, "-m", "trtllm_forge", "serve", *served, "--json"]
    with subprocess.Popen(
        command,
        env=workshop.environment,
        cwd=workshop.root,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as server:
        assert server.stdout is not None
        assert server.stderr is not None
        words: list[str] = []
        reader = threading.Thread(target=lambda: words.extend(server.stderr or ()))
        reader.start()
        try:
            text = _first_document(server.stdout)
            document = json.loads(text) if text else {}
            assert "http" in document, "".join(words) + text
            yield Served(document=document)
        finally:
            server.send_signal(signal.SIGTERM)
            server.wait(timeout=STOP_DEADLINE_S)
            reader.join()
        assert server.returncode == 0, "".join(words)


def _first_document(stream: Iterable[str]) -> str:
    text = ""
    for line in stream:
        text += line
        with contextlib.suppress(ValueError):
            json.loads(text)
            return text
    return text
