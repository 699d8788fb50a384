"""Chooses the ports of a server, and names the process that holds a taken port.

Sockets are looked up in ``/proc``: psutil names only one of the processes that share a socket,
and a server's may be another one.
"""

from __future__ import annotations

import contextlib
import os
import socket
from pathlib import Path
from typing import TYPE_CHECKING

from trtllm_forge.errors import ConfigError, ServerError
from trtllm_forge.machine.process.lifeline import living_members
from trtllm_forge.triton.launch.argv import Ports

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from trtllm_forge.reporter import Reporter

DEFAULT_PORTS = {"http": 8000, "grpc": 8001, "metrics": 8002}
_LISTENING = "0A"
_LABELS = {"http": "HTTP", "grpc": "gRPC", "metrics": "metrics"}


def choose_ports(
    host: str,
    wanted: Mapping[str, int | None],
    command: str,
    reporter: Reporter,
    *,
    remembered: Mapping[str, int] | None = None,
    holders: Mapping[int, str] | None = None,
) -> Ports:
    """Return the ports to serve on: requested, else remembered or usual, else free ones.

    Args:
        host: The address to listen on.
        wanted: The port of ``http``, ``grpc`` and ``metrics``, each None for any.
        command: The command as typed, without port flags, for the hint.
        reporter: Gets a note for each usual port that is taken.
        remembered: Ports a server of that name had before, tried instead of the usual ones.
        holders: Ports that other forge servers have chosen, each with its description; they
            may not listen yet.

    Raises:
        ConfigError: One port is given twice.
        ServerError: A wanted port is taken.
    """
    given = [port for port in wanted.values() if port is not None]
    if len(set(given)) < len(given):
        twice = next(port for port in given if given.count(port) > 1)
        names = " and ".join(f"--{n}-port" for n, port in wanted.items() if port == twice)
        what = f"port {twice} is given twice"
        raise ConfigError(what, why=f"{names} are the same")
    chosen: dict[str, int] = {}
    reserved = holders or {}
    for name, usual in (DEFAULT_PORTS | dict(remembered or {})).items():
        port = wanted[name]
        if port is not None:
            if port in reserved or not is_port_free(host, port):
                spare = free_port(host, avoid=set(reserved))
                what = f"port {port}, requested for {_LABELS[name]}, is taken"
                hint = f"{command} --{name}-port {spare}"
                raise ServerError(what, why=_holder_sentence(port, reserved), hint=hint)
        elif usual not in {*given, *reserved, *chosen.values()} and is_port_free(host, usual):
            port = usual
        else:
            port = free_port(host, avoid={*given, *reserved, *chosen.values()})
            holder = _holder_sentence(usual, reserved)
            because = f": {holder}" if holder else ""
            reporter.note(f"port {usual} is taken, {_LABELS[name]} is on {port}{because}")
        chosen[name] = port
    return Ports(**chosen)


def is_port_free(host: str, port: int) -> bool:
    """Return whether a port is free to listen on now.

    Raises:
        ServerError: ``host`` is no address of this machine.
    """
    try:
        with _bound_socket(host, port):
            return True
    except OSError:
        if port == 0:
            raise
        with contextlib.closing(_probe_host(host)):
            return False


def free_port(host: str, avoid: set[int] | None = None) -> int:
    """Return a free port.

    Raises:
        ServerError: ``host`` is no address of this machine.
    """
    while True:
        with contextlib.closing(_probe_host(host)) as probe:
            port = int(probe.getsockname()[1])
        if port not in (avoid or set()):
            return port


def port_holder(port: int) -> tuple[int, str] | None:
    """Return process id and command of a port's listener, if the system shows it."""
    return next(port_holders(port), None)


def is_held_by_group(port: int, group: int) -> bool:
    """Return whether a process of a group, or an unknown one, listens on a port.

    A group is a whole session, as in ``lifeline``.
    """
    sockets = _listening_inodes(port)
    if sockets == set():
        return False
    # Its own processes first: scanning the whole machine takes three times as long.
    if sockets and any(_holds(Path(f"/proc/{pid}"), sockets) for pid in living_members(group)):
        return True
    groups = set()
    for pid, _ in port_holders(port):
        with contextlib.suppress(ProcessLookupError):
            groups.add(os.getsid(pid))
    if groups:
        return group in groups
    # The holder may have exited before the lookup; then the holder is unknown.
    return _listening_inodes(port) == sockets


def port_holders(port: int) -> Iterator[tuple[int, str]]:
    """Yield process id and command of each listener of a port, if the system shows it."""
    inodes = _listening_inodes(port)
    if not inodes:
        return
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        if _holds(entry, inodes):
            with contextlib.suppress(OSError):
                yield int(entry.name), (entry / "comm").read_text().strip()


def _holds(process_dir: Path, inodes: set[str]) -> bool:
    # Other users' processes hide their files, and any may end in between.
    with contextlib.suppress(OSError):
        return any(_is_link_to(path, inodes) for path in (process_dir / "fd").iterdir())
    return False


def _listening_inodes(port: int) -> set[str] | None:
    """Return the sockets that listen on a port, or None if the system hides them."""
    inodes = None
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        with contextlib.suppress(OSError):
            lines = Path(table).read_text().splitlines()[1:]
            inodes = inodes or set()
            for fields in map(str.split, lines):
                if fields[3] == _LISTENING and int(fields[1].rpartition(":")[2], 16) == port:
                    inodes.add(f"socket:[{fields[9]}]")
    return inodes


def _is_link_to(path: Path, targets: set[str]) -> bool:
    return path.is_symlink() and str(path.readlink()) in targets


def _holder_sentence(port: int, reserved: Mapping[int, str]) -> str:
    holder = port_holder(port)
    if holder is None and port in reserved:
        return reserved[port]
    return f"process {holder[0]} ({holder[1]}) listens on it" if holder else ""


def _probe_host(host: str) -> socket.socket:
    try:
        return _bound_socket(host, 0)
    except OSError as error:
        what = f"cannot listen on {host}"
        raise ServerError(what, why=str(error.strerror or error)) from error


def _bound_socket(host: str, port: int) -> socket.socket:
    family, kind, protocol, _, address = socket.getaddrinfo(
        host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    bound = socket.socket(family, kind, protocol)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
        bound.listen(1)
    except OSError:
        bound.close()
        raise
    return bound
