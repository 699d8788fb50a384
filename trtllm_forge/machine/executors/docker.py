"""Runs commands in the image that carries the release, through the ``docker`` command.

What is executed::

    docker run --rm --init --pull never --name forge-<8 hex of the cache>-<label>
        --label trtllm-forge=<label> --gpus all --ipc host --ulimit memlock=-1
        --ulimit stack=67108864 --user <uid>:<gid> --network none --hostname localhost
        --mount type=bind,source=<path>,target=<path>[,readonly] ...
        --workdir <path> --env <name>=<value> ... <image> <the command>

Host shared memory and the two limits follow NVIDIA's own command, because ranks communicate
through shared memory (NVIDIA/TensorRT-LLM docs/source/quick-start-guide.md). The image's
entrypoint stays: it prints a banner, finds CUDA's compatibility libraries and then becomes the
command.

No variable of forge's environment goes into a container, so no token does either.
"""

from __future__ import annotations

import re
import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING

from trtllm_forge.errors import PrerequisiteError
from trtllm_forge.files.digest import sha256_text
from trtllm_forge.machine.process.command import Command
from trtllm_forge.machine.process.docker import (
    LABEL_KEY,
    LIMITS,
    DockerClient,
    container_environment,
    gpu_request,
    last_line,
    last_lines,
    mount_option,
    no_nvidia_runtime,
)
from trtllm_forge.machine.process.managed import ManagedProcess
from trtllm_forge.machine.process.secrets import environment_without_secrets
from trtllm_forge.reporter import SilentReporter

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from trtllm_forge.machine.executors import ExecutorName
    from trtllm_forge.machine.process.docker import Mount
    from trtllm_forge.reporter import Reporter

_LABEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
# The first container of a 30 GB image starts slowly.
_TRIAL_WAIT_S = 300.0
_VISIBLE_GPUS = "CUDA_VISIBLE_DEVICES"


@dataclass(frozen=True, kw_only=True)
class DockerExecutor:
    """Runs each command in its own container.

    Attributes:
        image: The image; never pulled without confirmation.
        image_bytes: What pulling it downloads, or None when that is not known.
        offline: Whether downloads are forbidden.
        cache_dir: The store; it is part of container names, and pull logs are kept there.
        gpus: The value of ``--gpus``, or None when ``CUDA_VISIBLE_DEVICES`` hides every GPU.
        user: The command runs as this ``<uid>:<gid>``, which owns the files it writes.
        answer_wait_s: Timeout of one query to docker.
    """

    image: str
    image_bytes: int | None
    offline: bool
    cache_dir: Path
    gpus: str | None
    user: str
    answer_wait_s: float = 60.0

    @property
    def name(self) -> ExecutorName:
        """Return the executor's name."""
        return "docker"

    @property
    def client(self) -> DockerClient:
        """Return the docker client."""
        purpose = f"executor docker runs {self.image}; inside it, --executor local needs no docker"
        return DockerClient(purpose=purpose, answer_wait_s=self.answer_wait_s)

    def container_name(self, label: str) -> str:
        """Return the container name of ``label``, unique per user and cache."""
        if not _LABEL.fullmatch(label):
            message = f"not a container label: {label!r}"
            raise ValueError(message)
        return f"forge-{sha256_text(f'{self.user} {self.cache_dir}')[:8]}-{label}"

    def wrap(
        self,
        command: Command,
        *,
        mounts: Sequence[Mount],
        needs_gpu: bool,
        needs_network: bool = False,
        label: str,
    ) -> Command:
        """Return the ``docker run`` of ``command``; see the module for its form.

        A plan on a machine whose GPUs are hidden asks for all of them; ``require`` refuses there.
        """
        env = dict(command.env)
        gpus = gpu_request(env.pop(_VISIBLE_GPUS)) if _VISIBLE_GPUS in env else self.gpus
        argv = ["docker", "run", "--rm", "--init", "--pull", "never"]
        argv += ["--name", self.container_name(label), "--label", f"{LABEL_KEY}={label}"]
        if needs_gpu:
            argv += ["--gpus", gpus or "all"]
        argv += ["--ipc", "host", *LIMITS, "--user", self.user]
        if not needs_network:
            # Without a network, /etc/hosts resolves only localhost to this container, and ranks
            # look up their own host name.
            argv += ["--network", "none", "--hostname", "localhost"]
        for mount in dict.fromkeys(mounts):
            argv += ["--mount", mount_option(mount)]
        argv += ["--workdir", "/tmp" if command.cwd is None else str(command.cwd.absolute())]
        for name, value in container_environment(env, needs_network=needs_network).items():
            argv += ["--env", f"{name}={value}"]
        inner = command.inner_argv or command.argv
        return Command(argv=(*argv, self.image, *inner), inner_argv=inner)

    def require(
        self, reporter: Reporter, *, confirm: Callable[[str], bool], needs_gpu: bool = True
    ) -> None:
        """Check that docker runs, has the image, and gives it a GPU.

        Raises:
            PrerequisiteError: A check fails, or the image pull was declined or failed.
        """
        self.client.require_daemon(reporter)
        if needs_gpu and self.gpus is None:
            what = "no GPU for the container: CUDA_VISIBLE_DEVICES hides them all"
            why = "executor docker passes on the GPUs visible to forge"
            raise PrerequisiteError(what, why=why, hint="unset CUDA_VISIBLE_DEVICES")
        if not self.client.has_image(self.image, reporter):
            if needs_gpu:
                self.client.require_some_gpu_support(reporter)
            self._pull(reporter, confirm)
        if needs_gpu:
            self._require_gpu(reporter)

    def clean_up(self, label: str, reporter: Reporter) -> None:
        """Remove the container of ``label``, running or not; never raises."""
        argv = ["docker", "rm", "--force", "--volumes", self.container_name(label)]
        try:
            answer = self.client.ask(argv, reporter)
        except PrerequisiteError as error:
            # Without docker there is no container either.
            if shutil.which("docker") is not None:
                reporter.warning(
                    f"{error.what}; a container may be left behind, remove it with: "
                    + " ".join(argv)
                )
            return
        if answer.returncode != 0 and "no such container" not in answer.stderr.lower():
            reporter.warning(
                f"{last_line(answer)}; a container is left behind, remove it with: "
                + " ".join(argv)
            )

    def _require_gpu(self, reporter: Reporter) -> None:
        argv = ["docker", "run", "--rm", "--pull", "never", "--network", "none"]
        argv += ["--gpus", self.gpus or "all", "--entrypoint", "true", self.image]
        answer = self.client.ask(argv, reporter, wait_s=_TRIAL_WAIT_S)
        if answer.returncode == 0:
            return
        text = answer.stderr.lower()
        if "could not select device driver" in text or "nvidia-container-runtime-hook" in text:
            raise no_nvidia_runtime(last_line(answer))
        what = f"docker cannot start {self.image} with a GPU"
        raise PrerequisiteError(what, why=last_lines(answer.stderr), hint="nvidia-smi")

    def _pull(self, reporter: Reporter, confirm: Callable[[str], bool]) -> None:
        by_hand = f"docker pull {self.image}"
        if self.offline:
            what = f"the image {self.image} is not on this machine, and forge is offline"
            raise PrerequisiteError(what, why="docker image inspect does not find it", hint=by_hand)
        size = "an unknown size"
        if self.image_bytes is not None:
            size = f"{self.image_bytes / 1e9:.2f} GB"
        if not confirm(f"pull {self.image}? It is a download of {size}"):
            what = f"the image {self.image} is not on this machine and was not pulled"
            why = f"the download of {size} was not confirmed; pass --yes"
            raise PrerequisiteError(what, why=why, hint=by_hand)
        reporter.note(f"pulling {self.image}, a download of {size}")
        log_path = self.cache_dir / "docker" / "pull.log"
        log_path.unlink(missing_ok=True)
        with ManagedProcess(
            ("docker", "pull", self.image),
            source="docker pull",
            log_path=log_path,
            reporter=_PullReporter(reporter),
            env=environment_without_secrets(),
        ) as child:
            if child.wait() == 0:
                return
            why = last_lines("\n".join(child.last_lines))
            what = f"{by_hand}: {child.ending()}"
        hint = _pull_hint(why.lower(), self.image)
        raise PrerequisiteError(what, why=why, hint=hint, log_path=log_path)


class _PullReporter(SilentReporter):
    """Passes on a pull's output lines and counts its layers."""

    def __init__(self, reporter: Reporter) -> None:
        self._reporter = reporter
        self._done: dict[str, bool] = {}

    def command_started(self, argv: Sequence[str]) -> None:
        """Pass it on."""
        self._reporter.command_started(argv)

    def child_line(self, source: str, line: str) -> None:
        """Pass it on; count ``<layer>: Pull complete`` as progress."""
        self._reporter.child_line(source, line)
        layer, _, state = line.partition(": ")
        if state in {"Pulling fs layer", "Already exists", "Pull complete"}:
            self._done[layer] = state != "Pulling fs layer"
            done = sum(self._done.values())
            self._reporter.progress(source, done, len(self._done), "layers")


def _pull_hint(why: str, image: str) -> str:
    if "no space left" in why:
        return "docker system df"
    if "unauthorized" in why or "denied" in why:
        return f"docker login {image.partition('/')[0]}"
    if "manifest unknown" in why or "not found" in why:
        return "forge versions"
    return f"docker pull {image}"
