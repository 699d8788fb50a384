"""The ``docker run`` of a server, against one composed here from what docker and Triton ask for.

Nothing is shared with what is compared. Inside, the ranks are those that are started without a
container, but for paths and addresses.
"""

from __future__ import annotations

import csv
import os
import re
import socket
import stat
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from typer.testing import CliRunner

from tests.certificates import self_signed
from tests.contract.serving.container_argv import (
    GIB,
    IN_DOCKER,
    MIB,
    error_of,
    has_gpus,
    served,
    taken_apart,
)
from tests.contract.serving.test_launch_differences import CASES, FLAGS, Case, dry_run, machine
from tests.rank_repositories import engine_model, twin_model, write_config
from trtllm_forge.cli.app import app
from trtllm_forge.serving.plan import ports

if TYPE_CHECKING:
    from collections.abc import Callable


__all__ = ["has_gpus", "machine"]

# The twin is in no image, and a container on one machine.
IN_ONE_PLACE = [name for name in CASES if name != "hosts" and not name.startswith("twin")]


@pytest.mark.parametrize("name", IN_ONE_PLACE)
def test_the_ranks_inside_are_those_outside_but_for_paths_and_addresses(
    name: str, tmp_path: Path, machine: Callable[[Case], None], has_gpus: Callable[[int], None]
) -> None:
    case = CASES[name]
    case.build(tmp_path / "repository")
    machine(case)
    gpus = ("--gpus", ",".join(map(str, range(case.gpus)))) if case.gpus else ()

    plain = dry_run(tmp_path / "repository", case.flags)
    inside = dry_run(tmp_path / "repository", (*case.flags, *IN_DOCKER, *gpus))

    expected = [(without_places(r["argv"]), names(r["env"])) for r in plain["ranks"]]
    found = [(without_places(r["argv"]), names(r["env"])) for r in inside["ranks"]]
    if not case.gpus and case.multi_model:  # the GPUs its engines have, where none was counted
        expected, found = map(without_pools, (expected, found))
    assert found == expected
    inner = inside["container"]["inner_argv"]
    outer = plain["argv"]
    assert without_places(inner[1:]) == without_places(outer[1:]) or case.multi_model
    assert Path(outer[0]).name == Path(inner[0]).name
    assert inside["argv"][-len(inner) :] == inner


def without_places(argv: list[str]) -> list[str]:
    patterns = (
        (r"(--model-repository)=.*", r"\1"),
        (r"(--(?:http|grpc|metrics)-address)=.*", r"\1"),
        (r"forge_\d+_\d+_", "forge_"),
        (r"(forge-control-key)=.*", r"\1"),
    )
    for pattern, put in patterns:
        argv = [re.sub(pattern, put, word) for word in argv]
    return argv


def without_pools(ranks: list[tuple[list[str], list[str]]]) -> list[tuple[list[str], list[str]]]:
    pool = "--cuda-memory-pool-byte-size="
    return [([w for w in argv if not w.startswith(pool)], env) for argv, env in ranks]


def names(env: dict[str, str]) -> list[str]:
    return sorted(env)


def test_an_engine_of_two_ranks_gets_its_gpus_its_memory_its_ports_and_nothing_to_write(
    tmp_path: Path, has_gpus: Callable[[int], None]
) -> None:
    root = tmp_path / "coder"
    engine_model(root, tp_size=2)
    write_config(root, "preprocessing", 'backend: "python"\ninstance_group [{ count: 3 }]', {})

    document = dry_run(root, IN_DOCKER)
    options, _, inside = taken_apart(document["argv"])

    mounts = [next(csv.reader([text], strict=True)) for text in options.pop("--mount")]
    stamp = options["--label"][1].partition("=")[2]
    assert re.fullmatch(rf"{os.getpid()}_\d+", stamp)
    user = options.pop("--user", [])
    assert options == {
        "--rm": [],
        "--init": [],
        "--pull": ["never"],
        "--name": [f"forge-serve-coder-{stamp}"],
        "--label": ["trtllm-forge=serve-coder", f"trtllm-forge.stamp={stamp}"],
        "--gpus": ['"device=GPU-00,GPU-11"'],
        "--shm-size": [str(3 * 64 * MIB + 2 * GIB)],
        "--ulimit": ["memlock=-1", "stack=67108864"],
        "--security-opt": ["no-new-privileges"],
        "--publish": [f"127.0.0.1:{port}:{port}" for port in (9000, 9001, 9002)],
        "--workdir": ["/tmp"],
        "--env": [
            *("HOME=/tmp", "USER=forge", "PYTHONUTF8=1"),
            *("OMPI_MCA_orte_tmpdir_base=/tmp/mpi", "PRTE_MCA_prte_tmpdir_base=/tmp/mpi"),
            "OMPI_MCA_oob_tcp_if_include=lo",
        ],
    }
    assert user in ([], [f"{os.getuid()}:{os.getgid()}"], ["1000:1000"])
    assert mounts[0] == ["type=bind", f"source={root}", "target=/models", "readonly"]
    assert all(mount[-1] == "readonly" for mount in mounts)
    assert inside[0] == "mpirun"
    addresses = [word for word in inside if "-address=" in word]
    assert addresses == [f"--{name}-address=0.0.0.0" for name in ("grpc", "http", "metrics")]
    assert document["leftovers"][0] == f"container:trtllm-forge.stamp={stamp}"


def test_an_image_of_another_release_is_refused_with_both_and_the_command_that_works(
    tmp_path: Path, has_gpus: Callable[[int], None]
) -> None:
    engine_model(tmp_path / "coder")
    older = "mirror.example:5000/nvidia/tritonserver:25.03-trtllm-python-py3"

    error = error_of(tmp_path / "coder", "--triton", f"docker:{older}")

    assert error["exit_code"] == 3
    wanted = f"{tmp_path / 'coder'} is for TensorRT-LLM 1.2.1 (its engine)"
    assert error["what"] == f"{wanted}, {older} has TensorRT-LLM 0.18.0"
    assert error["hint"] == f"forge serve {tmp_path / 'coder'} --triton docker"


def test_an_image_without_tensorrt_llm_is_refused(
    tmp_path: Path, has_gpus: Callable[[int], None]
) -> None:
    engine_model(tmp_path / "coder")

    error = error_of(tmp_path / "coder", "--triton", "docker:nvcr.io/nvidia/tritonserver:26.07-py3")

    assert error["what"].endswith("nvcr.io/nvidia/tritonserver:26.07-py3 has none")


def test_docker_alone_takes_the_image_of_the_repositorys_release(
    tmp_path: Path, has_gpus: Callable[[int], None]
) -> None:
    engine_dir = engine_model(tmp_path / "coder")
    path = engine_dir / "config.json"
    path.write_text(path.read_text().replace("1.2.1", "0.20.0"))

    document = dry_run(tmp_path / "coder", ("--triton", "docker"))

    _, image, _ = taken_apart(document["argv"])
    assert image == "nvcr.io/nvidia/tritonserver:25.07-trtllm-python-py3"


def test_a_repository_that_names_no_release_needs_an_image(tmp_path: Path) -> None:
    write_config(tmp_path / "mock", "mock", 'backend: "python"', {})

    error = error_of(tmp_path / "mock", "--triton", "docker")

    assert error["exit_code"] == 3
    assert error["what"] == (
        f"{tmp_path / 'mock'} does not record its TensorRT-LLM release, so no image can be chosen"
    )
    assert error["hint"] == f"forge serve {tmp_path / 'mock'} --triton docker:IMAGE"


def test_a_twin_is_refused_with_the_reason_and_the_way_that_works(tmp_path: Path) -> None:
    root = tmp_path / "twin"
    twin_model(root)
    (root / "tensorrt_llm" / "1" / "engine_worker.py").write_text("")

    error = error_of(root, *IN_DOCKER)

    assert error["exit_code"] == 3
    assert error["what"] == f"{root} is a twin, which cannot be served in a container"
    assert error["why"] == "NVIDIA's images have no OpenVINO GenAI, which tensorrt_llm needs"
    assert error["hint"] == f"forge serve {root} --triton wheel"


@pytest.mark.parametrize(
    ("flags", "what"),
    [
        (
            ("--hostfile", "hosts"),
            "--hostfile does not work with a container, which is on one machine",
        ),
        (
            ("--launcher", "srun"),
            "--launcher srun does not work with a container, which is on one machine",
        ),
        (("--gpus", "1"), "--gpus 1 names 1 of the 2 GPUs needed"),
        (("--gpus", "1,1"), "--gpus 1,1 names no GPUs"),
        (("--gpus", "first"), "--gpus first names no GPUs"),
    ],
)
def test_what_goes_together_with_no_container_is_refused(
    tmp_path: Path, has_gpus: Callable[[int], None], flags: tuple[str, ...], what: str
) -> None:
    engine_model(tmp_path / "coder", tp_size=2)
    Path("hosts").write_text("node1\n")

    error = error_of(tmp_path / "coder", *IN_DOCKER, *flags)

    assert (error["exit_code"], error["what"]) == (2, what)


@pytest.mark.parametrize(("gpus", "chosen"), [("0,1", "CUDA_VISIBLE_DEVICES=0,1 "), ("all", "")])
def test_gpus_without_a_container_are_those_that_cuda_shows(
    tmp_path: Path, machine: Callable[[Case], None], gpus: str, chosen: str
) -> None:
    engine_model(tmp_path / "coder")
    machine(CASES["one rank"])

    error = error_of(tmp_path / "coder", "--gpus", gpus)

    assert error["exit_code"] == 2
    assert error["hint"] == f"{chosen}forge serve {tmp_path / 'coder'}"


@pytest.mark.parametrize(
    ("flag", "value"),
    [("all", "all"), ("3,5", '"device=3,5"'), ("GPU-1a,GPU-2b", '"device=GPU-1a,GPU-2b"')],
)
def test_gpus_that_are_named_are_those_of_the_container(
    tmp_path: Path, has_gpus: Callable[[int], None], flag: str, value: str
) -> None:
    engine_model(tmp_path / "coder", tp_size=2)

    options, _ = served(tmp_path / "coder", "--gpus", flag)

    assert options["--gpus"] == [value]


def test_a_plan_can_be_made_without_the_gpus_and_says_so(
    tmp_path: Path, has_gpus: Callable[[int], None]
) -> None:
    has_gpus(0)
    engine_model(tmp_path / "coder", tp_size=2)

    result = CliRunner().invoke(
        app, ["serve", str(tmp_path / "coder"), "--dry-run", *FLAGS, *IN_DOCKER]
    )

    assert "--gpus '\"device=0,1\"'" in result.stdout
    assert (
        "this plan is for GPUs that this machine does not have: 2 GPUs are needed, 0 visible\n"
        in result.stderr
    )


def test_a_repository_that_others_cannot_read_is_served_as_who_may(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, has_gpus: Callable[[int], None]
) -> None:
    root = tmp_path / "coder"
    write_config(root, "mock", 'backend: "python"', {})
    for path in (root, *root.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)

    monkeypatch.setattr(os, "getuid", lambda: 4000)
    monkeypatch.setattr(os, "getgid", lambda: 4001)
    assert served(root)[0]["--user"] == ["4000:4001"]

    monkeypatch.setattr(os, "getuid", lambda: 0)
    assert served(root)[0]["--user"] == ["1000:1000"]

    path = root / "mock" / "config.pbtxt"
    path.chmod(stat.S_IRUSR)
    assert "--user" not in served(root)[0]


@pytest.mark.parametrize(
    ("host", "address"),
    [("0.0.0.0", "0.0.0.0"), ("localhost", "127.0.0.1"), ("::1", "[::1]")],
)
def test_ports_are_published_on_the_address_of_the_host(
    tmp_path: Path,
    has_gpus: Callable[[int], None],
    monkeypatch: pytest.MonkeyPatch,
    host: str,
    address: str,
) -> None:
    # Not every machine has IPv6, and names may be resolved to it first.
    monkeypatch.setattr(ports, "is_port_free", lambda *_: True)
    monkeypatch.setattr(socket, "getaddrinfo", resolved)
    engine_model(tmp_path / "coder")

    options, inside = served(tmp_path / "coder", "--host", host)

    assert options["--publish"][0] == f"{address}:9000:9000"
    assert "--http-address=0.0.0.0" in inside


def resolved(host: str, *_: object, **__: object) -> list[tuple[object, ...]]:
    return [(0, 0, 0, "", ("127.0.0.1" if host == "localhost" else host, 0))]


def test_the_files_of_an_encrypted_service_are_mounted_by_their_own_paths(
    tmp_path: Path, has_gpus: Callable[[int], None]
) -> None:
    engine_model(tmp_path / "coder")
    made = self_signed(tmp_path, "triton.example")

    options, inside = served(
        tmp_path / "coder",
        *("--grpc-tls-cert", str(made.cert_path), "--grpc-tls-key", str(made.key_path)),
    )

    assert options["--mount"][-2:] == [
        f"type=bind,source={path},target={path},readonly"
        for path in (made.cert_path, made.key_path)
    ]
    assert f"--grpc-server-key={made.key_path}" in inside
