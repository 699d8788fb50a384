"""Runs the ``docker`` command: checks and queries, and the syntax of its options.

Building and serving share this. Errors quote docker's own messages.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import dataclass
from itertools import takewhile
from typing import TYPE_CHECKING

from trtllm_forge.errors import PrerequisiteError
from trtllm_forge.machine.process.secrets import environment_without_secrets

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from trtllm_forge.reporter import Reporter

LABEL_KEY = "trtllm-forge"
"""The label of every container that forge starts."""

LIMITS = ("--ulimit", "memlock=-1", "--ulimit", "stack=67108864")
"""The limits of NVIDIA's own command (NVIDIA/TensorRT-LLM docs/source/quick-start-guide.md)."""

_GPU = re.compile(r"\d+|(GPU|MIG)-[0-9A-Za-z/-]+")
_SHOWN_LINES = 8


@dataclass(frozen=True, kw_only=True)
class DockerClient:
    """The ``docker`` command.

    Attributes:
        purpose: What docker is needed for; shown when it is missing.
        answer_wait_s: Timeout of one query.
    """

    purpose: str
    answer_wait_s: float = 60.0

    def require_daemon(self, reporter: Reporter) -> None:
        """Check that the daemon answers.

        Raises:
            PrerequisiteError: No docker, no daemon, or this user may not access it.
        """
        answer = self.ask(["docker", "version", "--format", "{{.Server.Version}}"], reporter)
        if answer.returncode == 0:
            return
        why = last_line(answer)
        if "permission denied" in why.lower():
            what = "docker is installed, but this user may not access its daemon"
            hint = 'sudo usermod -aG docker "$USER" && newgrp docker'
        else:
            what = "docker is installed, but its daemon does not answer"
            hint = "sudo systemctl start docker"
        raise PrerequisiteError(what, why=why, hint=hint)

    def has_image(self, image: str, reporter: Reporter) -> bool:
        """Return whether the daemon has an image.

        Raises:
            PrerequisiteError: Docker does not answer the query.
        """
        argv = ["docker", "image", "inspect", "--format", "{{.Id}}", image]
        answer = self.ask(argv, reporter)
        if answer.returncode == 0:
            return True
        if "no such image" in answer.stderr.lower():
            return False
        what = f"docker cannot tell whether it has the image {image}"
        raise PrerequisiteError(what, why=last_line(answer), hint=" ".join(argv[:3] + argv[-1:]))

    def require_some_gpu_support(self, reporter: Reporter) -> None:
        """Refuse to pull many GB when docker has no GPU support.

        The daemon detects GPU support by an executable of NVIDIA's toolkit on its PATH
        (moby/moby@18a2f3f01538:daemon/nvidia_linux.go), or by what ``docker info`` lists.
        """
        tools = ("nvidia-container-runtime-hook", "nvidia-ctk")
        if any(shutil.which(tool) for tool in tools):
            return
        answer = self.ask(["docker", "info", "--format", "{{json .}}"], reporter)
        if answer.returncode == 0 and "nvidia" not in answer.stdout.lower():
            missing = "the NVIDIA Container Toolkit is not installed"
            why = f"docker info lists no NVIDIA runtime, and {missing}"
            raise no_nvidia_runtime(why)

    def ask(
        self, argv: Sequence[str], reporter: Reporter, *, wait_s: float | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Return docker's answer to a short query.

        Raises:
            PrerequisiteError: There is no docker, or it does not answer in time.
        """
        reporter.command_started(argv)
        try:
            return subprocess.run(
                argv,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=wait_s or self.answer_wait_s,
                env=environment_without_secrets(),
                # forge handles Ctrl-C itself, and cleanup has to survive it.
                start_new_session=True,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            what = f"docker did not answer within {error.timeout:.0f} s: {' '.join(argv)}"
            raise PrerequisiteError(what, hint="sudo systemctl restart docker") from error
        except OSError as error:
            what = "docker is not on PATH"
            hint = "curl -fsSL https://get.docker.com | sudo sh"
            raise PrerequisiteError(what, why=self.purpose, hint=hint) from error


def gpu_request(visible: str | None) -> str | None:
    """Return the value of ``docker run --gpus``, or None when every GPU is hidden.

    The value is a CSV line, so several GPUs form one quoted field (docker/cli opts/gpus.go).

    Args:
        visible: ``CUDA_VISIBLE_DEVICES``; CUDA ignores what follows the first invalid entry.
    """
    if visible is None:
        return "all"
    entries = (entry.strip() for entry in visible.split(","))
    gpus = list(takewhile(_GPU.fullmatch, entries))
    return gpu_devices(gpus) if gpus else None


def gpu_devices(gpus: Sequence[str]) -> str:
    """Return the value of ``--gpus`` for some GPUs, by index or UUID."""
    return csv_field(f"device={','.join(gpus)}")


def container_environment(env: Mapping[str, str], *, needs_network: bool) -> dict[str, str]:
    """Return the container's variables: writable folders, the user's name, and ``env``.

    The user has no entry in the image's /etc/passwd, so HOME is not writable and torch, which
    reads the user's name when it is imported, fails with a KeyError unless USER is set.
    """
    own = {"HOME": "/tmp", "USER": "forge"}
    if not needs_network:
        # Otherwise libraries retry the Hub before they use local files.
        own["HF_HUB_OFFLINE"] = "1"
    return {**own, **env}


def mount_option(mount: Mount) -> str:
    """Return the value of ``--mount``, a CSV line (docker/cli@02cae2f7e950:opts/mount.go)."""
    fields = ["type=bind", f"source={mount.source.absolute()}", f"target={mount.target}"]
    if mount.read_only:
        fields.append("readonly")
    return ",".join(map(csv_field, fields))


def csv_field(text: str) -> str:
    """Return a text as one CSV field, as docker reads its options."""
    if not any(character in text for character in ',"\n\r'):
        return text
    return '"' + text.replace('"', '""') + '"'


def no_nvidia_runtime(why: str) -> PrerequisiteError:
    """Return the error for a docker without GPU support."""
    what = "docker has no NVIDIA runtime, so a container gets no GPU"
    hint = "sudo nvidia-ctk runtime configure --runtime=docker && sudo systemctl restart docker"
    return PrerequisiteError(
        what,
        why=f"{why}\nthe command below comes with the package nvidia-container-toolkit",
        hint=hint,
    )


def last_line(answer: subprocess.CompletedProcess[str]) -> str:
    """Return the last line of docker's answer."""
    return last_lines(answer.stderr or answer.stdout).splitlines()[-1]


def last_lines(text: str) -> str:
    """Return the end of docker's output, without its pointer to its own help."""
    written = [line.rstrip() for line in text.splitlines() if line.strip()]
    said = [line for line in written if not line.startswith(("Run 'docker ", "See 'docker "))]
    return "\n".join(said[-_SHOWN_LINES:]) or "it printed nothing"


@dataclass(frozen=True, kw_only=True)
class Mount:
    """A folder or file that a command in a container sees.

    A link inside works only if its target is mounted too: the Hub's snapshots are links
    into ``blobs``, so mount the folder that holds both.

    Attributes:
        source: Where it is on this machine; it has to exist when the command runs.
        target: Its absolute path for the command; the same path, unless the caller renames it.
        read_only: The command may not write below it.
    """

    source: Path
    target: str
    read_only: bool
