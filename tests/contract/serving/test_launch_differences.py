"""Forge's command of each rank, against upstream's launcher composed here from what is known of it.

``upstream`` follows ``scripts/launch_triton_server.py`` of triton-inference-server's
tensorrtllm_backend and of TensorRT-LLM: the prefix, the options of each rank in order, the colon
after every rank, the last one included. Nothing is shared with what is compared.
"""

from __future__ import annotations

import json
import re
import sys
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from typer.testing import CliRunner

from tests.certificates import self_signed
from tests.contract.serving.launch_differences import (
    DIFFERENCES,
    LaunchDifference,
    differences_table,
)
from tests.rank_repositories import engine_model, llmapi_model, twin_model
from trtllm_forge.cli.app import app
from trtllm_forge.machine.gpu import Gpu
from trtllm_forge.serving.plan import request
from trtllm_forge.triton.launch.locate import TritonInstallation

if TYPE_CHECKING:
    from collections.abc import Callable

CHECKOUT_DIR = Path(__file__).parents[3]
SERVER = "/opt/tritonserver/bin/tritonserver"
PORTS = {"grpc": "9001", "http": "9000", "metrics": "9002"}
FLAGS = [f"--{name}-port={port}" for name, port in PORTS.items()]


@dataclass(frozen=True, kw_only=True)
class Case:
    """A repository, what forge is told, and what upstream's launcher would be told."""

    build: Callable[[Path], object]
    world_size: int = 1
    release: str = "1.2"
    models: tuple[str, ...] = ("tensorrt_llm",)
    multi_model: bool = False
    spawn: bool = True
    gpus: int = 0
    oversubscribe: bool = False
    llmapi: bool = False
    no_mpi: bool = False
    wheel: bool = False
    flags: tuple[str, ...] = ()
    environment: dict[str, str] = field(default_factory=dict)


def upstream(case: Case, repository: str) -> tuple[list[str], list[list[str]]]:
    """Return the launcher's own arguments and those of each rank."""
    prefix = [] if case.no_mpi else ["mpirun", "--allow-run-as-root"]
    if case.oversubscribe:
        prefix.append("--oversubscribe")
    ports = [f"--{name}-port={PORTS[name]}" for name in ("grpc", "http", "metrics")]
    ranks = []
    for rank in range(case.world_size):
        argv = [] if case.no_mpi else ["-n", "1"]
        argv += ["trtllm-llmapi-launch"] if case.llmapi else []
        argv += [SERVER, f"--model-repository={repository}", *ports]
        if rank > 0:
            argv += ["--model-control-mode=explicit"]
            argv += [f"--load-model={name}" for name in case.models]
        if case.multi_model and case.spawn:
            argv += ["--pinned-memory-pool-byte-size=0", "--enable-peer-access=false"]
            argv += [f"--cuda-memory-pool-byte-size={gpu}:0" for gpu in range(case.gpus)]
        if case.release not in ("0.16", "0.18"):
            argv += ports
        argv += ["--disable-auto-complete-config"]
        argv += [f"--backend-config=python,shm-region-prefix-name=prefix{rank}_"]
        ranks.append(argv if case.no_mpi else [*argv, ":"])
    return prefix, ranks


def engines(*, tp: int = 1, pp: int = 1, name: str = "tensorrt_llm") -> Callable[[Path], object]:
    return lambda root: engine_model(root, name, tp_size=tp, pp_size=pp)


def several(*models: tuple[str, int, str]) -> Callable[[Path], object]:
    def build(root: Path) -> None:
        for name, tp_size, participants in models:
            engine_model(root, name, tp_size=tp_size, participants=participants)

    return build


def with_certificate(build: Callable[[Path], object]) -> Callable[[Path], object]:
    def build_both(root: Path) -> None:
        build(root)
        self_signed(Path("tls"), "triton")

    return build_both


ORCHESTRATOR = {"TRTLLM_ORCHESTRATOR": "1", "TRTLLM_ORCHESTRATOR_SPAWN_PROCESSES": "1"}
RANKED = {**ORCHESTRATOR, "TRTLLM_ORCHESTRATOR_SPAWN_PROCESSES": "0"}
CASES = {
    "one rank": Case(build=engines(), no_mpi=True),
    "one rank, 0.18": Case(build=engines(), release="0.18"),
    "tp 2": Case(build=engines(tp=2), world_size=2),
    "tp 2, 0.16": Case(build=engines(tp=2), world_size=2, release="0.16"),
    "tp 2, told so": Case(build=engines(tp=2), world_size=2, flags=("--world-size", "2")),
    "pp 2": Case(build=engines(pp=2), world_size=2),
    "tp 2, pp 2": Case(build=engines(tp=2, pp=2), world_size=4),
    "tp 8": Case(build=engines(tp=8), world_size=8),
    "oversubscribed": Case(
        build=engines(tp=2), world_size=2, oversubscribe=True, flags=("--oversubscribe",)
    ),
    "renamed model": Case(build=engines(tp=2, name="coder"), world_size=2, models=("coder",)),
    "two engines share the ranks": Case(
        build=several(("a", 2, ""), ("b", 2, "")),
        world_size=2,
        models=("a", "b"),
        flags=("--mode", "leader"),
    ),
    "orchestrator": Case(
        build=several(("a", 2, ""), ("b", 1, "")), multi_model=True, environment=ORCHESTRATOR
    ),
    "orchestrator, 4 GPUs": Case(
        build=several(("a", 2, ""), ("b", 2, "")),
        multi_model=True,
        gpus=4,
        environment=ORCHESTRATOR,
    ),
    "orchestrator of ranks that are there": Case(
        build=several(("a", 2, "1,2"), ("b", 2, "3,4")),
        world_size=5,
        models=("a", "b"),
        multi_model=True,
        spawn=False,
        environment=RANKED,
    ),
    "one engine, orchestrated": Case(
        build=engines(tp=2),
        multi_model=True,
        flags=("--mode", "orchestrator"),
        environment=ORCHESTRATOR,
    ),
    "LLM API, one rank": Case(build=llmapi_model, no_mpi=True),
    "LLM API, 4 ranks": Case(
        build=lambda root: llmapi_model(root, tp_size=2, pp_size=2), world_size=4, llmapi=True
    ),
    "LLM API, written out": Case(
        build=lambda root: llmapi_model(root, tp_size=2, completes=False),
        world_size=2,
        llmapi=True,
    ),
    "hosts": Case(build=engines(tp=2), world_size=2, flags=("--hostfile", "hosts")),
    "every address": Case(build=engines(tp=2), world_size=2, flags=("--host", "0.0.0.0")),
    "encrypted": Case(
        build=with_certificate(engines(tp=2)),
        world_size=2,
        flags=("--grpc-tls-cert", "tls/triton.crt", "--grpc-tls-key", "tls/triton.key"),
    ),
    "twin, 2 ranks": Case(build=twin_model, world_size=2, flags=("--world-size", "2"), wheel=True),
    "twin, 4 ranks": Case(build=twin_model, world_size=4, flags=("--world-size", "4")),
}


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[Case], None]:
    """Give a machine with an Open MPI on PATH, a Triton and as many GPUs as a case has."""
    mpirun = tmp_path / "bin" / "mpirun"
    mpirun.parent.mkdir()
    mpirun.write_text(f"#!{sys.executable}\nprint('mpirun (Open MPI) 4.1.8')\n")
    mpirun.chmod(0o755)
    monkeypatch.setenv("PATH", str(mpirun.parent))
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    Path("hosts").write_text("node1 slots=1\nnode2 slots=1\n")

    def prepare(case: Case) -> None:
        installation = TritonInstallation(
            executable=Path(SERVER),
            origin="wheel" if case.wheel else "image",
            label="a Triton",
            backend_dir=Path("/cache/backends") if case.wheel else None,
            env={"LD_LIBRARY_PATH": "/lib", "PATH": "/bin"} if case.wheel else {},
        )
        gpu = Gpu(name="NVIDIA H100", memory_bytes=1 << 36, compute_capability="9.0")
        monkeypatch.setattr(request, "locate_triton", lambda _: installation)
        monkeypatch.setattr(request, "detect_gpus", lambda: (gpu,) * case.gpus)

    return prepare


def dry_run(repository_dir: Path, flags: tuple[str, ...]) -> dict[str, Any]:
    command = ["serve", str(repository_dir), "--dry-run", "--json", *FLAGS, *flags]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    document: dict[str, Any] = json.loads(result.stdout)
    return document


@pytest.mark.parametrize("name", CASES)
def test_a_rank_is_started_as_upstream_does_but_for_the_listed_differences(
    name: str, tmp_path: Path, machine: Callable[[Case], None]
) -> None:
    case = CASES[name]
    case.build(tmp_path / "repository")
    machine(case)

    document = dry_run(tmp_path / "repository", case.flags)

    prefix, ranks = upstream(case, str(tmp_path / "repository"))
    own_prefix, own_ranks = taken_apart(document)
    assert len(own_ranks) == case.world_size
    if not own_prefix and prefix:
        # One rank: what starts it is left out as a whole.
        prefix = [*prefix, *("-n", "1", ":")]
        ranks = [[word for word in argv if word not in ("-n", "1", ":")] for argv in ranks]
    compare(prefix, own_prefix, "launcher")
    for rank, (theirs, own) in enumerate(zip(ranks, own_ranks, strict=True)):
        compare(theirs, own, "rank 0" if rank == 0 else "ranks above 0")
    for rank_document in document["ranks"]:
        names = {*rank_document["env"], *case.environment}
        extra = sorted(names - set(case.environment))
        assert {key: rank_document["env"][key] for key in case.environment} == case.environment
        assert [key for key in extra if not is_listed(key, "environment", "adds")] == []


def test_every_listed_difference_is_seen_in_some_case(
    tmp_path: Path, machine: Callable[[Case], None]
) -> None:
    added, dropped = Counter[str](), Counter[str]()
    for name, case in CASES.items():
        root = tmp_path / name.replace(" ", "_").replace(",", "")
        case.build(root)
        machine(case)
        document = dry_run(root, case.flags)
        prefix, ranks = upstream(case, str(root))
        own = Counter([*document["argv"], *document["env"]])
        theirs = Counter([*prefix, *(word for argv in ranks for word in argv)])
        added += own - theirs
        dropped += theirs - own

    unseen = [
        pattern
        for entry in DIFFERENCES
        for patterns, words in ((entry.adds, added), (entry.drops, dropped))
        for pattern in patterns
        if not any(re.fullmatch(pattern, word) for word in words)
    ]
    assert unseen == []


def test_the_page_lists_every_difference() -> None:
    page = (CHECKOUT_DIR / "docs" / "launch-differences.md").read_text(encoding="utf-8")

    assert "\n".join(differences_table()) in page


def taken_apart(document: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Return the launcher's own arguments, and each rank's from its ``-n 1`` to its colon."""
    argv: list[str] = document["argv"]
    ranks: list[list[str]] = [rank["argv"] for rank in document["ranks"]]
    if argv == ranks[0]:
        return [], ranks
    segments: list[list[str]] = [[]]
    for word in argv:
        segments[-1].append(word)
        if word == ":":
            segments.append([])
    assert segments.pop() == [], "the last rank has its colon, too"
    start = segments[0].index("-n")
    prefix, segments[0] = segments[0][:start], segments[0][start:]
    assert [segment[2:-1] for segment in segments] == ranks
    return prefix, segments


def compare(theirs: list[str], own: list[str], part: str) -> None:
    """Hold two lists to the same order, and what only one of them has to the list."""
    parts = (part,) if part == "launcher" else (part, "every rank")
    added, dropped = Counter(own) - Counter(theirs), Counter(theirs) - Counter(own)
    assert [word for word in added if not any(is_listed(word, p, "adds") for p in parts)] == []
    assert [word for word in dropped if not any(is_listed(word, p, "drops") for p in parts)] == []
    assert without(own, added) == without(theirs, dropped)


def without(words: list[str], extra: Counter[str]) -> list[str]:
    rest = Counter(extra)
    kept = []
    for word in reversed(words):
        if rest[word]:
            rest[word] -= 1
        else:
            kept.append(word)
    return kept[::-1]


def is_listed(word: str, part: str, side: str) -> bool:
    return any(
        re.fullmatch(pattern, word) for e in DIFFERENCES for pattern in patterns(e, part, side)
    )


def patterns(entry: LaunchDifference, part: str, side: str) -> tuple[str, ...]:
    if entry.part != part:
        return ()
    return entry.adds if side == "adds" else entry.drops
