"""What this machine can build and serve, for each runtime, and what it lacks.

As JSON::

    {"schema": 1, "trtllm_version": "1.2.1",
     "machine": {"checks": [{"name", "state", "detail", "hint"}], "gpus": [...], ...},
     "runtimes": {"openvino": {"builds": true, "serves": true, "checks": [...]}, ...}}

with ``error``, as for every command, if a required runtime cannot be used. A state is ``ok``,
``warn`` or ``missing``. Planning a build needs none of this.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from trtllm_forge.errors import PrerequisiteError
from trtllm_forge.machine.survey import look_at_machine
from trtllm_forge.support import machine_checks as checks

if TYPE_CHECKING:
    from collections.abc import Sequence

    from trtllm_forge.checkpoint.hub_access import HubAccess
    from trtllm_forge.config.schema import ForgeConfig
    from trtllm_forge.config.settings import Settings
    from trtllm_forge.machine.survey import Machine
    from trtllm_forge.releases.catalogue import Catalogue, Release
    from trtllm_forge.runtimes import RuntimeName
    from trtllm_forge.support.machine_checks import Check

SCHEMA = 1


@dataclass(frozen=True, kw_only=True)
class RuntimeReport:
    """What the machine can do for one runtime.

    Attributes:
        name: The runtime.
        builds: Whether an artifact for it can be built here.
        serves: Whether this environment can serve one.
        checks: The checks behind that.
        needed: The checks that decide whether the runtime is usable.
    """

    name: RuntimeName
    builds: bool
    serves: bool
    checks: tuple[Check, ...]
    needed: tuple[Check, ...]

    @property
    def is_usable(self) -> bool:
        """Return whether it builds; for the LLM API, which needs no build, whether it serves."""
        return self.serves if self.name == "llmapi" else self.builds

    def document(self) -> dict[str, object]:
        """Return the part of the JSON document."""
        return {
            "builds": self.builds,
            "serves": self.serves,
            "checks": [check.document() for check in self.checks],
        }


@dataclass(frozen=True, kw_only=True)
class MachineReport:
    """Everything that was found.

    Attributes:
        release: The TensorRT-LLM release that images and drivers were compared with.
        machine: The facts that forge's choices depend on.
        checks: The checks shared by all runtimes.
        runtimes: One report per runtime.
    """

    release: Release
    machine: Machine
    checks: tuple[Check, ...]
    runtimes: tuple[RuntimeReport, ...]

    def lack(self, runtime: RuntimeName) -> PrerequisiteError | None:
        """Return why a runtime cannot be used here, or None if it can."""
        report = next(report for report in self.runtimes if report.name == runtime)
        if report.is_usable:
            return None
        verb = "serve" if runtime == "llmapi" else "build for"
        what = f"this machine cannot {verb} runtime {runtime}"
        shared = () if runtime == "openvino" else self.checks
        missing = [c for c in (*shared, *report.needed) if c.state == "missing"]
        why = "\n".join(f"{check.name}: {check.detail}" for check in missing)
        hint = next((check.hint for check in missing if check.hint), "")
        return PrerequisiteError(what, why=why, hint=hint)

    def document(self, *, lack: PrerequisiteError | None = None) -> dict[str, object]:
        """Return the JSON document of ``forge doctor``, with ``lack`` as its error."""
        machine = self.machine
        document: dict[str, object] = {
            "schema": SCHEMA,
            "trtllm_version": self.release.version,
            "machine": {
                "checks": [check.document() for check in self.checks],
                "gpus": [
                    {
                        "name": gpu.name,
                        "memory_bytes": gpu.memory_bytes,
                        "architecture": gpu.architecture,
                        "driver_version": gpu.driver_version,
                    }
                    for gpu in machine.gpus.gpus
                ],
                "free_memory_bytes": machine.free_memory_bytes,
                "cpu_count": machine.cpu_count,
            },
            "runtimes": {report.name: report.document() for report in self.runtimes},
        }
        if lack is not None:
            document["error"] = {
                "what": lack.what,
                "why": lack.why,
                "hint": lack.hint,
                "log_path": None,
                "exit_code": lack.exit_code,
            }
        return document

    def text(self) -> str:
        """Return a line per check, grouped by machine and runtime."""
        lines = ["machine", *_lines(self.checks)]
        for report in self.runtimes:
            builds = "builds" if report.builds else "cannot build"
            serves = "serves" if report.serves else "cannot serve"
            of_release = (
                "" if report.name == "openvino" else f" (TensorRT-LLM {self.release.version})"
            )
            lines += ["", f"{report.name}{of_release}: {builds}, {serves}"]
            lines += _lines(report.checks)
        return "\n".join(lines)


def examine(
    config: ForgeConfig, settings: Settings, catalogue: Catalogue, access: HubAccess
) -> MachineReport:
    """Return what this machine can build and serve, without imports or downloads.

    Args:
        config: Only ``trtllm_version``, ``examples_dir`` and ``offline`` are used.
        settings: Where forge keeps things.
        catalogue: The releases.
        access: How the Hub is reached.

    Raises:
        ConfigError: The configured release is unknown.
    """
    asked = catalogue.find(config.trtllm_version) if config.trtllm_version else None
    machine = look_at_machine()
    release = asked or _unasked_release(machine, catalogue)
    shared = (
        *checks.check_host(machine, settings.cache_dir),
        *checks.check_gpus(machine),
        *checks.check_hub(access, offline=config.offline),
    )
    return MachineReport(
        release=release,
        machine=machine,
        checks=shared,
        runtimes=(
            _examine_twin(),
            _examine_engines(config, settings, catalogue, machine, release, asked),
            _examine_llm_api(catalogue, machine, release),
        ),
    )


def _unasked_release(machine: Machine, catalogue: Catalogue) -> Release:
    """Return the release that a build would use: the installed one, else the newest."""
    installed = machine.toolchain.version if machine.toolchain else None
    known = catalogue.releases.get((installed or "").partition("+")[0])
    newest = catalogue.newest("engine")
    assert newest is not None
    return known if known is not None and "engine" in known.flows else newest


def _examine_twin() -> RuntimeReport:
    packages, server = checks.check_twin_packages(), checks.check_twin_server()
    return RuntimeReport(
        name="openvino",
        builds=packages.state == "ok",
        serves=packages.state == "ok" and server.state == "ok",
        checks=(packages, server),
        needed=(packages,),
    )


def _examine_engines(
    config: ForgeConfig,
    settings: Settings,
    catalogue: Catalogue,
    machine: Machine,
    release: Release,
    asked: Release | None,
) -> RuntimeReport:
    local = checks.check_local_tools(
        machine, catalogue, asked=asked, examples_dir=config.examples_dir
    )
    docker = checks.check_docker(
        machine, release.image, settings.cache_dir, examples_dir=config.examples_dir
    )
    server = checks.check_server(release, backend="tensorrtllm")
    can_run = machine.has_gpu and "engine" in release.flows
    has_local, has_docker = _all_there(local), _all_there(docker)
    serves = server.state == "ok" or has_docker
    if server.state != "ok" and has_docker:
        detail = f"{server.detail}; forge serve can start one in docker"
        server = replace(server, state="warn", detail=detail, hint="forge serve --triton docker")
    # Either is enough, so what the other lacks is only a warning.
    local, docker = (
        _softened(local, is_replaced=has_docker),
        _softened(docker, is_replaced=has_local),
    )
    return RuntimeReport(
        name="trtllm",
        builds=can_run and (has_local or has_docker),
        serves=machine.has_gpu and serves,
        checks=(
            *checks.check_flow(release),
            *checks.check_architectures(machine, release),
            *checks.check_driver(machine, release, catalogue),
            *local,
            *docker,
            server,
            checks.check_mpi(),
        ),
        needed=(*checks.check_flow(release), *local, *docker),
    )


def _examine_llm_api(catalogue: Catalogue, machine: Machine, release: Release) -> RuntimeReport:
    server = checks.check_server(release, backend="python")
    library = checks.check_llm_api(machine, catalogue)
    return RuntimeReport(
        name="llmapi",
        builds="llmapi" in release.flows,
        serves=machine.has_gpu and _all_there((server, library)),
        checks=(server, library),
        needed=(server, library),
    )


def _all_there(found: Sequence[Check]) -> bool:
    return all(check.state != "missing" for check in found)


def _softened(found: Sequence[Check], *, is_replaced: bool) -> list[Check]:
    soft = [replace(c, state="warn") if c.state == "missing" else c for c in found]
    return soft if is_replaced else list(found)


def _lines(found: Sequence[Check]) -> list[str]:
    lines = []
    for check in found:
        lines.append(f"  {check.state:<9}{check.name:<14}{check.detail}")
        if check.hint and check.state != "ok":
            lines.append(f"{'':<25}try: {check.hint}")
    return lines
