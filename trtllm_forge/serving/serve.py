"""Starts Triton on a model repository, waits until it is ready, and owns it until it ends."""

from __future__ import annotations

import glob
import os
import shlex
import tempfile
import time
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from trtllm_forge.errors import PrerequisiteError, ServerError
from trtllm_forge.process import ManagedProcess, environment_without_secrets
from trtllm_forge.serving.ports import choose_ports, is_held_by_group
from trtllm_forge.serving.state import (
    ServerRecord,
    ServerUrls,
    free_server_name,
    record_path,
    start_lock,
    start_ticks,
    write_record,
)
from trtllm_forge.serving.trust import require_trusted
from trtllm_forge.triton.client import TritonHttp
from trtllm_forge.triton.launch import DEFAULT_HOST, Ports, triton_argv
from trtllm_forge.triton.locate import TritonInstallation, locate_triton
from trtllm_forge.triton.mount import CPP_BACKEND, cpp_models, mirror_for_serving
from trtllm_forge.triton.plain_path import is_plain, plain_path
from trtllm_forge.triton.startup_log import find_startup_failure, models_still_loading

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import TracebackType

    from typing_extensions import Self

    from trtllm_forge.reporter import Reporter
    from trtllm_forge.serving.trust import Verify
    from trtllm_forge.settings import Settings

FRONT_MODEL = "ensemble"
DOCUMENT_SCHEMA = 1
_EXIT_TIMEOUT_S = 5
_GRACE_S = 10.0
# A server of models that are on the disk has no use for them, and models run in it.


@dataclass(frozen=True, kw_only=True)
class ServeOptions:
    """What to serve and where.

    Attributes:
        repository_dir: The model repository, absolute.
        host: The address to listen on.
        http_port: A port, or None for 8000 or a free one; likewise the other two.
        grpc_port: See ``http_port``; 8001.
        metrics_port: See ``http_port``; 8002.
        ready_timeout_s: How long the front model may take to be ready.
        world_size: Ranks of the engine; one.
        verify: How the repository is compared with its manifest first; see ``serving.trust``.
    """

    repository_dir: Path
    host: str = DEFAULT_HOST
    http_port: int | None = None
    grpc_port: int | None = None
    metrics_port: int | None = None
    ready_timeout_s: float = 120.0
    world_size: int = 1
    verify: Verify = "times"


@dataclass(frozen=True, kw_only=True)
class ServedModel:
    """A model as the server lists it."""

    name: str
    version: str
    state: str


@dataclass(frozen=True, kw_only=True)
class RunningServer:
    """A Triton that is ready; a context manager that stops it.

    Attributes:
        name: By which ``probe`` and ``complete`` find it.
        repository_dir: What it serves.
        urls: Where it answers.
        pid: Triton's own process, the leader of its group.
        log_path: What it wrote.
        models: What it serves.
        ready_s: Seconds from the start of the process until the front model was ready.
        process: The child itself.
        command: What serves the same again.
    """

    name: str
    repository_dir: Path
    urls: ServerUrls
    pid: int
    log_path: Path
    models: tuple[ServedModel, ...]
    ready_s: float
    process: ManagedProcess
    command: str

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    def text(self) -> str:
        """Return what the command line prints once the server is ready."""
        return (
            f"serving {self.name}, ready in {self.ready_s:.1f} s\n"
            f"  http     {self.urls.http}\n"
            f"  grpc     {self.urls.grpc}\n"
            f"  metrics  {self.urls.metrics}\n"
            f"  log      {self.log_path}"
        )

    def document(self) -> dict[str, object]:
        """Return the same for ``--json``."""
        return {
            "schema": DOCUMENT_SCHEMA,
            "name": self.name,
            "repository": str(self.repository_dir),
            "pid": self.pid,
            "http": self.urls.http,
            "grpc": self.urls.grpc,
            "metrics": self.urls.metrics,
            "log": str(self.log_path),
            "models": [asdict(model) for model in self.models],
            "ready_s": round(self.ready_s, 3),
        }

    def stop(self) -> None:
        """Stop the server and remove what it leaves."""
        self.process.stop()

    def wait(self) -> None:
        """Wait until the server ends, which it does not do by itself.

        Raises:
            ServerError: It ended; names the exit code or the signal.
        """
        self.process.wait()
        ending = self.process.ending()
        self.process.stop()
        what = f"Triton (process {self.pid}), which served {self.name}, ended with {ending}"
        why = "somebody stopped it from outside" if ending in _OUTSIDE_ENDINGS else ""
        raise ServerError(what, why=why, hint=self.command, log_path=self.log_path)


# On TERM and INT Triton exits by itself, with 0.
_OUTSIDE_ENDINGS = ("exit code 0", "signal SIGKILL", "signal SIGTERM")


def start_server(options: ServeOptions, settings: Settings, reporter: Reporter) -> RunningServer:
    """Start Triton on a repository and return it once its front model is ready.

    Raises:
        PrerequisiteError: There is no Triton here, or not one that can run this repository.
        CheckpointError: The repository is not what its manifest says.
        ServerError: A port is taken, a model does not load, or it takes too long.
        ConfigError: One port is wanted twice.
    """
    command = _serve_command(options.repository_dir, settings.model_repos_dir)
    _check_world_size(options, command)
    require_trusted(
        options.repository_dir,
        options.verify,
        cache_dir=settings.cache_dir,
        reporter=reporter,
        command=command,
    )
    with _writing(settings.cache_dir, "FORGE_CACHE_DIR", command):
        installation = locate_triton(settings.cache_dir)
    _check_backends(options.repository_dir, installation)
    with (
        _writing(settings.state_dir, "FORGE_STATE_DIR", command),
        start_lock(settings.state_dir, reporter),
        ExitStack() as stack,
    ):
        wanted = {
            "http": options.http_port,
            "grpc": options.grpc_port,
            "metrics": options.metrics_port,
        }
        ports = choose_ports(options.host, wanted, command, reporter)
        name = free_server_name(settings.state_dir, options.repository_dir.name)
        process = _triton_process(options, settings, reporter, installation, ports, name)
        stack.enter_context(process)
        server = _ready_server(options, process, ports, name, command)
        _remember(server, settings)
        stack.pop_all()
    return server


def _triton_process(
    options: ServeOptions,
    settings: Settings,
    reporter: Reporter,
    installation: TritonInstallation,
    ports: Ports,
    name: str,
) -> ManagedProcess:
    stamp = f"{os.getpid()}-{time.time_ns()}"
    log_path = settings.state_dir / "logs" / f"{name}-{stamp}.log"
    log_path.parent.mkdir(parents=True, exist_ok=True)
    log_path.touch()
    run_dir = settings.state_dir / "run" / stamp
    if not is_plain(run_dir):
        run_dir = Path(tempfile.mkdtemp(prefix="forge-"))
    if installation.backend_dir is not None:
        backend_dir = plain_path(installation.backend_dir, run_dir / "backends")
        installation = replace(installation, backend_dir=backend_dir)
    shm_prefix = f"forge_{os.getpid()}_{time.time_ns()}_"
    return ManagedProcess(
        triton_argv(
            installation,
            repository_dir=mirror_for_serving(options.repository_dir, run_dir / "repository"),
            host=options.host,
            ports=ports,
            shm_prefix=shm_prefix,
            exit_timeout_s=_EXIT_TIMEOUT_S,
        ),
        source="triton",
        log_path=log_path,
        reporter=reporter,
        env=_triton_env(installation),
        grace_s=_GRACE_S,
        leftovers=(f"/dev/shm/{shm_prefix}*", glob.escape(str(run_dir))),
        record_path=record_path(settings.state_dir, name),
    )


def _triton_env(installation: TritonInstallation) -> dict[str, str]:
    # Whatever the locale: a path or a prompt of any language has to pass.
    return {**environment_without_secrets(), **installation.env, "PYTHONUTF8": "1"}


def _ready_server(
    options: ServeOptions, process: ManagedProcess, ports: Ports, name: str, command: str
) -> RunningServer:
    """Return the server that a process has become, once it is ready."""
    urls = _urls(options.host, ports)
    http = TritonHttp(urls.http)
    front = _front_model(options.repository_dir)
    started = time.monotonic()
    _wait_until_ready(
        process,
        # Another server on that port would answer as well.
        lambda: (
            http.is_live()
            and http.is_model_ready(front)
            and is_held_by_group(ports.http, process.pid)
        ),
        options,
        command,
    )
    ready_s = time.monotonic() - started
    return RunningServer(
        name=name,
        repository_dir=options.repository_dir,
        urls=urls,
        pid=process.pid,
        log_path=process.log_path,
        models=tuple(
            ServedModel(name=name, version=version, state=state)
            for name, version, state in http.models()
        ),
        ready_s=ready_s,
        process=process,
        command=command,
    )


@contextmanager
def _writing(folder: Path, variable: str, command: str) -> Iterator[None]:
    """Say of a folder of forge's that it cannot be written, and how to have another."""
    try:
        yield
    except OSError as error:
        failed = Path(str(error.filename or folder))
        if not (failed.is_relative_to(folder) or folder.is_relative_to(failed)):
            raise
        what = f"{folder} cannot be written"
        spare = Path(tempfile.gettempdir()) / f"forge-{variable.split('_')[1].lower()}"
        hint = f"{variable}={shlex.quote(str(spare))} {command}"
        raise PrerequisiteError(what, why=f"{failed}: {error.strerror}", hint=hint) from error


def _serve_command(repository_dir: Path, model_repos_dir: Path) -> str:
    """Return the command that serves this repository, from this folder."""
    is_built = repository_dir.parent.resolve() == model_repos_dir.resolve()
    named = repository_dir.name if is_built else str(repository_dir)
    return f"forge serve {shlex.quote(named)}"


def _check_world_size(options: ServeOptions, command: str) -> None:
    if options.world_size > 1:
        what = f"--world-size {options.world_size} is wanted, this release serves 1 rank"
        why = "serving an engine of several ranks is not in this release"
        raise PrerequisiteError(what, why=why, hint=f"{command} --world-size 1")


def _check_backends(repository_dir: Path, installation: TritonInstallation) -> None:
    if installation.origin != "wheel":
        return
    for model in cpp_models(repository_dir):
        what = f"model {model} needs Triton's {CPP_BACKEND} backend, which is not here"
        why = (
            f"{installation.label} has the python backend alone, and "
            f"{repository_dir / model / 'config.pbtxt'} names backend {CPP_BACKEND}; "
            "NGC's tritonserver images for TensorRT-LLM have it"
        )
        raise PrerequisiteError(what, why=why)


def _front_model(repository_dir: Path) -> str:
    """Return the ensemble, or the first model of a repository that has none."""
    models = sorted(path.parent.name for path in repository_dir.glob("*/config.pbtxt"))
    return FRONT_MODEL if FRONT_MODEL in models else models[0]


def _wait_until_ready(
    process: ManagedProcess, is_ready: Callable[[], bool], options: ServeOptions, command: str
) -> None:
    outcome = process.wait_until(is_ready, options.ready_timeout_s)
    if outcome == "ready":
        return
    log = process.log_path.read_text(errors="replace").splitlines()
    lines = log or list(process.last_lines)  # a full disk has no log
    if outcome == "ended":
        raise _startup_error(process, lines)
    loading = ", ".join(models_still_loading(lines))
    what = f"Triton was not ready within {options.ready_timeout_s:g} s"
    why = f"it is alive and still loading {loading}" if loading else "it is alive"
    hint = f"{command} --ready-timeout-s {options.ready_timeout_s * 2:g}"
    raise ServerError(what, why=why, hint=hint, log_path=process.log_path)


def _startup_error(process: ManagedProcess, lines: list[str]) -> ServerError:
    failure = find_startup_failure(lines, returncode=process.returncode)
    if failure is None:
        what = f"Triton ended with {process.ending()} before it was ready"
        last = " | ".join(line for line in lines[-3:] if line.strip())
        why = f"its last lines: {last}" if last else "it wrote nothing"
        return ServerError(what, why=why, log_path=process.log_path)
    diagnosis = failure.diagnosis
    cause, hint = (diagnosis.cause, diagnosis.hint) if diagnosis else ("", "")
    if failure.model:
        what = f"model {failure.model} did not load: {failure.message}"
        facts = [failure.place, cause]
    else:
        what = f"Triton did not start: {failure.message}"
        facts = [cause or f"it ended with {process.ending()}"]
    why = "; ".join(filter(None, facts))
    return ServerError(what, why=why, hint=hint, log_path=process.log_path)


def _urls(host: str, ports: Ports) -> ServerUrls:
    # A server on every address is reached on this machine's own.
    reached = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    shown = f"[{reached}]" if ":" in reached else reached
    return ServerUrls(
        http=f"http://{shown}:{ports.http}",
        grpc=f"{shown}:{ports.grpc}",
        metrics=f"http://{shown}:{ports.metrics}/metrics",
    )


def _remember(server: RunningServer, settings: Settings) -> None:
    ticks = start_ticks(server.pid)
    if ticks is not None:
        record = ServerRecord(
            name=server.name,
            pid=server.pid,
            started_ticks=ticks,
            urls=server.urls,
            repository_dir=server.repository_dir,
            log_path=server.log_path,
        )
        write_record(settings.state_dir, record)
