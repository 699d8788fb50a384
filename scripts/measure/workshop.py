"""The folder a measurement works in, and what is built, served and loaded there."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scripts.measure.streams import LoadPlan, Rates

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

ROOT = Path(__file__).resolve().parents[2]
HOST = "127.0.0.1"
READY_PATH = "/v2/models/ensemble/ready"
_START_DEADLINE_S = 120.0
_STOP_DEADLINE_S = 45.0


@dataclass(frozen=True, kw_only=True)
class Finished:
    """A child process that ended well.

    Attributes:
        seconds: How long it took.
        peak_rss_bytes: The largest resident memory of it or of any one process it started.
        stdout: What it wrote.
    """

    seconds: float
    peak_rss_bytes: int
    stdout: str


@dataclass(frozen=True, kw_only=True)
class Workshop:
    """A scratch folder with a cache, a state folder and repositories of its own.

    Attributes:
        root: The folder.
        rounds: How often each side of a comparison is timed, in turns.
        window_s: The window of a load on the fast engine.
    """

    root: Path
    rounds: int
    window_s: float

    @property
    def environment(self) -> dict[str, str]:
        """Return the variables of every child process."""
        inherited = os.environ.get("PYTHONPATH", "")
        kept = {key: value for key, value in os.environ.items() if not key.startswith("FORGE_")}
        # An installed forge has its bytecode; without it each start would compile all anew.
        kept.pop("PYTHONDONTWRITEBYTECODE", None)
        return {
            **kept,
            "FORGE_CACHE_DIR": str(self.root / "cache"),
            "FORGE_STATE_DIR": str(self.root / "state"),
            "FORGE_MODEL_REPOS": str(self.root / "model_repos"),
            "PYTHONPATH": os.pathsep.join(filter(None, (str(ROOT), inherited))),
            "TRANSFORMERS_VERBOSITY": "error",
        }

    def run(self, argv: Sequence[str], environment: Mapping[str, str] | None = None) -> Finished:
        """Run a command to its end.

        Raises:
            RuntimeError: It ended with another code than 0.
        """
        log_path = self.root / "child.log"
        out_path = self.root / "child.out"
        with log_path.open("w") as log, out_path.open("w") as out:
            started = time.perf_counter()
            child = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=log,
                env={**self.environment, **(environment or {})},
                cwd=self.root,
            )
            # Unlike Popen.wait it gives the memory, of the child and of all it waited for.
            _, status, usage = os.wait4(child.pid, 0)
            seconds = time.perf_counter() - started
        child.returncode = os.waitstatus_to_exitcode(status)
        if child.returncode != 0:
            message = f"{' '.join(argv)} ended with {child.returncode}\n{log_path.read_text()}"
            raise RuntimeError(message)
        peak = usage.ru_maxrss * 1024
        return Finished(seconds=seconds, peak_rss_bytes=peak, stdout=out_path.read_text())

    def forge(self, *arguments: str) -> Finished:
        """Run a forge command to its end."""
        return self.run([sys.executable, "-m", "trtllm_forge", *arguments])

    def build(self, model: str, precision: str) -> Path:
        """Build a repository, or take the one this workshop has, and return its folder."""
        output_dir = self.root / "model_repos" / f"{Path(model).name}-{precision}"
        self.forge("build", model, f"--{precision}", "--output", str(output_dir), "--quiet")
        return output_dir

    def clear_cache(self) -> None:
        """Forget everything that was built, so that the next build is cold."""
        for name in ("cache", "model_repos"):
            shutil.rmtree(self.root / name, ignore_errors=True)

    def load(self, port: int, model: str, repository_dir: Path, plan: LoadPlan) -> Rates:
        """Load a served model from a process of its own."""
        tokenizer = repository_dir / "preprocessing" / "1" / "tokenizer" / "tokenizer.json"
        order = {"host": HOST, "port": port, "model": model, "tokenizer": str(tokenizer)}
        return self._rates("scripts.measure.load", {**order, "plan": asdict(plan)})

    def load_bare(self, repository_dir: Path, plan: LoadPlan, *, fast_math: bool = False) -> Rates:
        """Load a repository's engine loop without Triton, in a process of its own."""
        order = {"repository": str(repository_dir), "fast_math": fast_math, "plan": asdict(plan)}
        return self._rates("scripts.measure.bare", order)

    def _rates(self, module: str, order: Mapping[str, object]) -> Rates:
        done = subprocess.run(
            [sys.executable, "-m", module],
            input=json.dumps(order),
            capture_output=True,
            text=True,
            env=self.environment,
            check=False,
        )
        if done.returncode != 0:
            message = f"{module} ended with {done.returncode}\n{done.stderr}"
            raise RuntimeError(message)
        return Rates(**json.loads(done.stdout.splitlines()[-1]))

    @contextlib.contextmanager
    def serve(self, repository_dir: Path) -> Iterator[tuple[int, float]]:
        """Run ``forge serve``; give the HTTP port and the seconds until it said it was ready."""
        started = time.perf_counter()
        with self.serve_document(repository_dir) as document:
            yield int(document["http"].rsplit(":", 1)[1]), time.perf_counter() - started

    @contextlib.contextmanager
    def serve_document(self, repository_dir: Path) -> Iterator[dict[str, Any]]:
        """Run ``forge serve``; give what it says of itself once it is ready."""
        argv = [sys.executable, "-m", "trtllm_forge", "serve", str(repository_dir)]
        argv += ["--json", "--quiet"]
        with self._running(argv, {}, stdout=subprocess.PIPE) as (server, _):
            yield _read_document(server)

    @contextlib.contextmanager
    def serve_bare(self, repository_dir: Path) -> Iterator[tuple[int, float]]:
        """Run the same tritonserver with the same arguments, without forge."""
        from trtllm_forge.triton.launch.argv import Ports, TritonStart, triton_argv
        from trtllm_forge.triton.launch.locate import locate_triton

        installation = locate_triton(self.root / "cache")
        http, grpc, metrics = free_ports(3)
        start = TritonStart(
            installation=installation,
            repository_dir=repository_dir,
            host=HOST,
            ports=Ports(http=http, grpc=grpc, metrics=metrics),
            shm_prefix=f"measure_{os.getpid()}_{http}_",
            control_key=f"measure{http}",
            exit_timeout_s=5,
        )
        argv = triton_argv(start)
        with self._running(argv, installation.env, stdout=subprocess.DEVNULL) as (server, started):
            _wait_until_ready(server, http)
            yield http, time.perf_counter() - started

    @contextlib.contextmanager
    def _running(
        self, argv: Sequence[str], environment: Mapping[str, str], *, stdout: int
    ) -> Iterator[tuple[subprocess.Popen[str], float]]:
        with (self.root / "server.log").open("w") as log:
            started = time.perf_counter()
            server = subprocess.Popen(
                argv,
                stdout=stdout,
                stderr=log,
                env={**self.environment, **environment},
                cwd=self.root,
                text=True,
            )
        with server:
            try:
                yield server, started
            finally:
                server.send_signal(signal.SIGTERM)
                try:
                    server.wait(_STOP_DEADLINE_S)
                except subprocess.TimeoutExpired:
                    server.kill()


def free_ports(count: int) -> list[int]:
    """Return ports that nobody listens on."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind((HOST, 0))
        return [int(one.getsockname()[1]) for one in sockets]
    finally:
        for one in sockets:
            one.close()


def _read_document(server: subprocess.Popen[str]) -> dict[str, Any]:
    text = ""
    for line in server.stdout or ():
        text += line
        with contextlib.suppress(ValueError):
            document: dict[str, Any] = json.loads(text)
            return document
    message = f"forge serve ended before it was ready: {text}"
    raise RuntimeError(message)


def _wait_until_ready(server: subprocess.Popen[str], port: int) -> None:
    deadline = time.monotonic() + _START_DEADLINE_S
    while time.monotonic() < deadline:
        if server.poll() is not None:
            message = f"tritonserver ended with {server.returncode} before it was ready"
            raise RuntimeError(message)
        connection = http.client.HTTPConnection(HOST, port, timeout=5)
        try:
            connection.request("GET", READY_PATH)
            if connection.getresponse().status == 200:
                return
        except OSError:
            pass
        finally:
            connection.close()
        time.sleep(0.02)  # as often as forge asks
    message = "tritonserver was not ready in time"
    raise RuntimeError(message)
