"""What ``forge check`` passes a real Triton loads, and what it refuses Triton refuses.

The models are the ones that forge renders, with Python that does nothing: what is compared is
their configuration, their folders and their wires, which need neither an engine nor a GPU. A lost
model.py is not among them: that Triton waits for its stub for ever.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING

import httpx
import pytest

from tests.check_cases import CORE, ENSEMBLE, POST, PRE, WIRE
from tests.check_fixtures import (
    append,
    drop_tensor,
    nothing,
    parameter,
    remove,
    replace,
    tensor,
    write,
)
from tests.ports import free_port
from tests.process.recording import RecordingReporter, eventually
from tests.rendering import render, stage, tree
from trtllm_forge.check.run import check_repository
from trtllm_forge.check.view import CheckOptions
from trtllm_forge.machine.process.managed import ManagedProcess
from trtllm_forge.triton.launch.argv import Ports, TritonStart, triton_argv
from trtllm_forge.triton.launch.locate import locate_triton

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.check_fixtures import Mutation

pytestmark = pytest.mark.triton

HOST = "127.0.0.1"
MODEL = "class TritonPythonModel:\n    def execute(self, requests):\n        return []\n"
OPTIONS = CheckOptions(trtllm_version="1.2.1")

_NOT_HERE = ("--load-model", "--http-restricted-api", "--grpc-restricted-protocol")


@dataclass(frozen=True)
class LiveRepository:
    """A repository that a running Triton reads again when it is asked to."""

    url: str
    root: Path
    sound: Path

    def refused(self, mutate: Mutation) -> list[str]:
        """Break the sound repository, and return the models that then do not load."""
        self._restore()
        mutate(self.root)
        # The ensemble takes along what it depends on.
        touched = {p.name for p in self.sound.iterdir() if not self._is_sound(p.name)}
        return [name for name in sorted({"ensemble", *touched}) if not self._loads(name)]

    def _is_sound(self, model: str) -> bool:
        return tree(self.sound / model) == tree(self.root / model)

    def _restore(self) -> None:
        """Undo what the last mutation did; Triton loads again only what was touched."""
        for path in sorted(self.root.rglob("*"), reverse=True):
            if not (self.sound / path.relative_to(self.root)).exists():
                path.rmdir() if path.is_dir() else path.unlink()
        for path in sorted(self.sound.rglob("*")):
            place = self.root / path.relative_to(self.sound)
            if path.is_dir():
                place.mkdir(exist_ok=True)
            elif not place.exists() or place.read_bytes() != path.read_bytes():
                shutil.copyfile(path, place)

    def _loads(self, name: str) -> bool:
        answer = httpx.post(f"{self.url}/v2/repository/models/{name}/load", json={}, timeout=60)
        return answer.status_code == httpx.codes.OK


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveRepository]:
    folder = tmp_path_factory.mktemp("agrees")
    sound = render(folder, stage("openvino"))
    for path in sound.glob("*/1/*"):
        if path.name == "model.py":
            path.write_text(MODEL)
        elif path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
    write("ensemble/1/.keep", "")(sound)
    root = shutil.copytree(sound, folder / "served")
    installation = locate_triton(folder / "cache")
    ports = Ports(http=free_port(HOST), grpc=free_port(HOST), metrics=free_port(HOST))
    start = TritonStart(
        installation=installation,
        repository_dir=root,
        host=HOST,
        ports=ports,
        shm_prefix=f"forge_{os.getpid()}_agrees_",
        control_key="",
        exit_timeout_s=5,
    )
    process = ManagedProcess(
        # Each model is loaded by its own test, over the open control.
        [word for word in triton_argv(start) if not word.startswith(_NOT_HERE)],
        source="triton",
        log_path=folder / "triton.log",
        reporter=RecordingReporter(),
        # A __pycache__ would count as a change of the model.
        env={**os.environ, **installation.env, "PYTHONDONTWRITEBYTECODE": "1"},
        leftovers=[f"/dev/shm/forge_{os.getpid()}_agrees_*"],
    )
    url = f"http://{HOST}:{ports.http}"
    with process:
        assert eventually(lambda: _is_live(url), within_s=60)
        yield LiveRepository(url=url, root=root, sound=sound)


def _is_live(url: str) -> bool:
    try:
        return httpx.get(f"{url}/v2/health/live", timeout=2).status_code == httpx.codes.OK
    except httpx.HTTPError:
        return False


def errors(root: Path) -> list[str]:
    """Return the codes of the errors in what Triton itself reads: no engine, no tokenizer."""
    report = check_repository(root, OPTIONS, select=("FL1", "FL2", "FL3", "FL7"))
    return sorted({f.code for f in report.findings if f.severity == "error"})


ACCEPTED: dict[str, Mutation] = {
    "as rendered": nothing,
    "another version beside": write("preprocessing/2/model.py", MODEL),
    "a folder that is no version": write("preprocessing/old/model.py", "not Python("),
    "a policy for a version that is there": append(
        PRE, "version_policy { specific { versions: [1] } }\n"
    ),
    "more instances": replace(PRE, "count: 1", "count: 2"),
    "a smaller batch in the ensemble": replace(ENSEMBLE, "max_batch_size: 64", "max_batch_size: 8"),
    "a parameter that nobody knows": append(
        PRE, 'parameters: { key: "color" value: { string_value: "red" } }\n'
    ),
    "a comment and Windows line ends": lambda root: (root / POST).write_bytes(
        b"# ours\r\n" + (root / POST).read_bytes().replace(b"\n", b"\r\n")
    ),
    "an optional input left unmapped": lambda root: (
        drop_tensor("ensemble", "seed")(root),
        replace(ENSEMBLE, 'input_map { key: "seed" value: "seed" }', "")(root),
    ),
    "version 0": lambda root: (root / "preprocessing/1").rename(root / "preprocessing/0"),
    "a comment that is not UTF-8": lambda root: (root / PRE).write_bytes(
        b"# \xff\n" + (root / PRE).read_bytes()
    ),
    "an ensemble that says it is decoupled": append(
        ENSEMBLE, "model_transaction_policy { decoupled: true }\n"
    ),
}
REFUSED: dict[str, tuple[str, Mutation]] = {
    "a lost brace": ("FL101", append(PRE, "dynamic_batching {\n")),
    "an unfilled placeholder": (
        "FL102",
        replace(PRE, "max_batch_size: 64", "max_batch_size: ${triton_max_batch_size}"),
    ),
    "an unknown field": ("FL105", append(PRE, "max_batch: 4\n")),
    "a byte order mark": (
        "FL107",
        lambda root: (root / PRE).write_bytes(b"\xef\xbb\xbf" + (root / PRE).read_bytes()),
    ),
    "another name": ("FL112", replace(PRE, 'name: "preprocessing"', 'name: "tokenize"')),
    "an unknown backend": ("FL114", replace(PRE, 'backend: "python"', 'backend: "pyton"')),
    "no version folder": ("FL116", remove("preprocessing/1")),
    "a model.py that is cut": ("FL119", write("preprocessing/1/model.py", "def f(:\n")),
    "a model.py without its class": ("FL126", write("preprocessing/1/model.py", "x = 1\n")),
    "a policy for a version that is not there": (
        "FL120",
        append(PRE, "version_policy { specific { versions: [3] } }\n"),
    ),
    "a size of zero": ("FL123", tensor("preprocessing", "QUERY", "dims: [1]", "dims: [0]")),
    "a step without its model": (
        "FL201",
        replace(ENSEMBLE, 'model_name: "tensorrt_llm"', 'model_name: "tensorrt-llm"'),
    ),
    "a tensor that the step's model lacks": (
        "FL203",
        replace(ENSEMBLE, 'key: "TOKENS_BATCH"', 'key: "TOKEN_BATCH"'),
    ),
    "an input that is not mapped": ("FL204", replace(ENSEMBLE, WIRE, "")),
    "a wire from nowhere": (
        "FL205",
        replace(ENSEMBLE, WIRE, WIRE.replace('_TOKENS_BATCH" }', '_TOKENS" }')),
    ),
    "two types on a wire": ("FL206", tensor("ensemble", "max_tokens", "TYPE_INT32", "TYPE_INT64")),
    "two shapes on a wire": ("FL207", tensor("ensemble", "temperature", "dims: [1]", "dims: [2]")),
    "an output that nothing makes": (
        "FL208",
        replace(ENSEMBLE, 'key: "OUTPUT" value: "text_output"', 'key: "OUTPUT" value: "text"'),
    ),
    "a wire to nowhere": ("FL210", drop_tensor("ensemble", "acceptance_rate")),
    "an input that goes nowhere": (
        "FL211",
        replace(ENSEMBLE, 'input_map { key: "seed" value: "seed" }', ""),
    ),
    "a batch above the step's": (
        "FL224",
        replace(ENSEMBLE, "max_batch_size: 64", "max_batch_size: 65"),
    ),
    "no batch axis": ("FL226", replace(CORE, "max_batch_size: 64", "max_batch_size: 0")),
    "a preferred batch above the largest": (
        "FL227",
        replace(PRE, "preferred_batch_size: [64]", "preferred_batch_size: [65]"),
    ),
    "a Python model by its platform": (
        "FL115",
        replace(PRE, 'backend: "python"', 'platform: "python"'),
    ),
    "an output of a step that is declared twice": (
        "FL122",
        replace(
            PRE, "output [", 'output { name: "INPUT_ID" data_type: TYPE_INT32 dims: -1 }\noutput ['
        ),
    ),
    "labels that are not there": (
        "FL128",
        tensor("postprocessing", "OUTPUT", "dims: [-1]", 'dims: [-1]\n label_filename: "a.txt"'),
    ),
    "levels without a default": (
        "FL229",
        replace(PRE, "  default_queue_policy", "  priority_levels: 2\n  default_queue_policy"),
    ),
    "a word that is neither yes nor no": (
        "FL315",
        append(
            PRE,
            'parameters: { key: "FORCE_CPU_ONLY_INPUT_TENSORS" '
            'value: { string_value: "maybe" } }\n',
        ),
    ),
    "a word of the python backend that is left empty": (
        "FL315",
        parameter("tensorrt_llm", "FORCE_CPU_ONLY_INPUT_TENSORS", ""),
    ),
    "a word of the python backend with a capital": (
        "FL315",
        parameter("tensorrt_llm", "FORCE_CPU_ONLY_INPUT_TENSORS", "No"),
    ),
    "a cache for streams": ("FL710", append(CORE, "response_cache { enable: true }\n")),
    "GPUs for the CPU": ("FL711", replace(PRE, "count: 1", "count: 1 gpus: [0]")),
    "instances of an ensemble": (
        "FL709",
        append(ENSEMBLE, "instance_group [{ count: 1 kind: KIND_CPU }]\n"),
    ),
}


@pytest.mark.parametrize("mutate", ACCEPTED.values(), ids=ACCEPTED)
def test_what_the_check_passes_triton_loads(repository: LiveRepository, mutate: Mutation) -> None:
    assert repository.refused(mutate) == []
    assert errors(repository.root) == []


@pytest.mark.parametrize(("code", "mutate"), REFUSED.values(), ids=REFUSED)
def test_what_triton_does_not_load_the_check_refuses(
    repository: LiveRepository, code: str, mutate: Mutation
) -> None:
    assert repository.refused(mutate) != []
    assert code in errors(repository.root)
