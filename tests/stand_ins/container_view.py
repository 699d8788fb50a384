"""What a container of the stand-in for docker sees: its mounts, its ports, and the image's Triton.

The image's Triton is the one that a JSON file names, an executable with arguments and variables of
its own::

    {"executable": "/.../bin/tritonserver", "arguments": ["--backend-directory=..."],
     "env": {"LD_LIBRARY_PATH": "..."}}

A container has no network of its own here. So a port that Triton opens on every address has to be
a published one, and is opened where it is published.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import socket
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

IMAGE_TRITON = "/opt/tritonserver/bin/tritonserver"
_PORT = re.compile(r"--(?P<service>http|grpc|metrics)-port=(?P<port>\d+)")
_ADDRESS = re.compile(r"--(?P<service>http|grpc|metrics)-address=(?P<address>.+)")


def busy_port(ports: list[tuple[str, int, int]]) -> str | None:
    """Return the first address and port on which somebody listens already."""
    for host, port, _ in ports:
        with contextlib.closing(socket.socket()) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, port))
            except OSError:
                return f"{host}:{port}"
    return None


def identity(name: str) -> str:
    """Return what docker shows of a container beside its name."""
    return hashlib.sha256(name.encode()).hexdigest()[:12]


def merged_places(mounts: list[dict[str, str]], view_dir: Path) -> dict[str, str]:
    """Return where each mounted path is; a mount with others inside it is copied together."""
    places = {one["target"].rstrip("/"): one["source"] for one in mounts}
    for outer, source in list(places.items()):
        inner = {
            place: path
            for place, path in places.items()
            if place.startswith(f"{outer}/")
            # Else it is there already, and mounted again to be written.
            and os.path.realpath(f"{source}/{place.removeprefix(f'{outer}/')}")
            != os.path.realpath(path)
        }
        if not inner:
            continue
        copy = view_dir / outer.strip("/").replace("/", "_")
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(source, copy, symlinks=True)
        for place, path in inner.items():
            target = copy / place.removeprefix(f"{outer}/")
            if not target.exists():
                raise SystemExit(f"read-only file system: nothing to mount {place} on")
            target.unlink()
            target.symlink_to(path)
            del places[place]
        places[outer] = str(copy)
    return places


def contents(root: Path, opened: list[Path]) -> dict[Path, tuple[int, int]]:
    paths = [root, *root.rglob("*")] if root.is_dir() else [root]
    # A mount may lie below a read-only one; forge itself keeps a log beside it; and Python does
    # without a place for its bytecode where it finds none.
    paths = [
        path
        for path in paths
        if path.suffix != ".log"
        and "__pycache__" not in path.parts
        and not any(path == place or place in path.parents for place in opened)
    ]
    states = {path: path.lstat() for path in paths}
    return {
        path: (0, 0) if path.is_dir() else (found.st_size, found.st_mtime_ns)
        for path, found in states.items()
    }


def image_triton(
    path: Path, argv: list[str], env: dict[str, str], ports: list[tuple[str, int, int]]
) -> tuple[list[str], dict[str, str]]:
    """Return a command and its variables with the Triton of this machine for the image's."""
    triton = json.loads(path.read_text())
    outer = {inside: (host, outside) for host, outside, inside in ports}
    made: list[str] = []
    for command in _commands(argv):
        opened = {
            match["service"]: int(match["port"]) for match in map(_PORT.fullmatch, command) if match
        }
        made += [_translated(word, triton, opened, outer) for word in command]
        if IMAGE_TRITON in command:
            place = len(made) - (command[-1] == ":")
            made[place:place] = triton["arguments"]
    # The container's own /tmp.
    scratch = {
        name: str(path.with_name("container-tmp") / value.removeprefix("/tmp/"))
        for name, value in env.items()
        if value.startswith("/tmp/")
    }
    own = {**scratch, **triton["env"]}
    own["PATH"] = f"{own.get('PATH', '')}:{env['PATH']}".strip(":")
    return made, {**env, **own}


def _commands(argv: list[str]) -> list[list[str]]:
    commands: list[list[str]] = [[]]
    for word in argv:
        commands[-1].append(word)
        if word == ":":
            commands.append([])
    return [command for command in commands if command]


def _translated(
    word: str,
    triton: dict[str, str],
    opened: dict[str, int],
    outer: dict[int, tuple[str, int]],
) -> str:
    if word == IMAGE_TRITON:
        return triton["executable"]
    if match := _PORT.fullmatch(word):
        return f"--{match['service']}-port={_outside(opened[match['service']], outer)[1]}"
    if match := _ADDRESS.fullmatch(word):
        if match["address"] != "0.0.0.0":
            raise SystemExit(f"{word}: nothing outside of the container reaches that")
        return f"--{match['service']}-address={_outside(opened[match['service']], outer)[0]}"
    return word


def _outside(port: int, outer: dict[int, tuple[str, int]]) -> tuple[str, int]:
    if port not in outer:
        raise SystemExit(f"port {port} is not published")
    return outer[port]
