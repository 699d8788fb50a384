"""``forge check`` from its options to what it prints."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from typing import TYPE_CHECKING

from trtllm_forge.check.run import Report, check_repository
from trtllm_forge.check.view import CheckOptions
from trtllm_forge.errors import ConfigError, RenderError
from trtllm_forge.text.quantities import size_in_bytes

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class CheckRequest:
    """The options of ``forge check``, as they were typed."""

    repository: Path
    trtllm_version: str | None = None
    mount_root: str | None = None
    gpu: str | None = None
    world_size: int | None = None
    shm_size: str | None = None
    select: tuple[str, ...] = ()
    ignore: tuple[str, ...] = ()
    fix: bool = False
    dry_run: bool = False
    sarif_path: Path | None = None
    config_path: Path | None = None


@dataclass(frozen=True, kw_only=True)
class CheckOutcome:
    """What ``forge check`` found and did.

    Attributes:
        report: The findings that are left.
        diff: What was changed, or would be, as a unified diff.
        fixed: How many findings that mended.
        is_mended: Whether the files were changed.
        notes: What else to tell.
        exit_code: Where an error was found.
    """

    report: Report
    diff: str = ""
    fixed: int = 0
    is_mended: bool = False
    notes: tuple[str, ...] = ()
    exit_code: int = RenderError.exit_code

    def document(self) -> dict[str, object]:
        """Return the JSON document."""
        document = self.report.document()
        if self.diff:
            document["fix"] = {
                "applied": self.is_mended,
                "findings": self.fixed,
                "diff": self.diff,
            }
        return document

    def text(self, *, quiet: bool = False) -> str:
        """Return the findings by model, with the path and line of each."""
        lines = self.diff.splitlines()
        model = None
        for finding in self.report.findings:
            if quiet and finding.severity == "info":
                continue
            if finding.model != model:
                model = finding.model
                lines += [*([""] if lines else []), model or str(self.report.root)]
            place = f"{finding.path}:{finding.line}" if finding.line else finding.path
            line = f"{finding.severity} {finding.code}  {finding.message}"
            lines.append(f"  {place or '.'}  {line}")
            if finding.hint:
                lines.append(f"      try:  {finding.hint}")
        return "\n".join([*lines, *([""] if lines else []), self._summary()])

    @property
    def next_command(self) -> str:
        """Return the command that explains the first finding, if there is one to explain."""
        code = next((f.code for f in self.report.findings if f.severity != "info"), None)
        return "" if code is None else f"forge check --explain {code}"

    def _summary(self) -> str:
        report = self.report
        counts = ", ".join(
            f"{report.count(severity)} {severity}{'' if report.count(severity) == 1 else 's'}"
            for severity in ("error", "warning")
        )
        release = report.release
        against = "" if release is None else f", TensorRT-LLM {release.version} ({release.origin})"
        return f"{counts}; {len(report.rules)} rules{against}"


def run_check(request: CheckRequest) -> CheckOutcome:
    """Check a repository, and mend it when that is asked for.

    Raises:
        ConfigError: An option or ``forge.yaml`` is wrong, or there is no repository.
    """
    if request.dry_run and not request.fix:
        what = "--dry-run goes with --fix"
        why = "without --fix nothing is changed"
        hint = f"forge check {shlex.quote(str(request.repository))} --fix --dry-run"
        raise ConfigError(what, why=why, hint=hint)
    select, ignore = _rules(request)
    options = _options(request)
    report = check_repository(request.repository, options, select=select, ignore=ignore)
    outcome = CheckOutcome(report=report)
    if request.fix:
        from trtllm_forge.check.fix import apply_edits, plan_edits

        planned = plan_edits(report)
        if planned.diff and not request.dry_run:
            apply_edits(planned, request.repository)
            report = check_repository(request.repository, options, select=select, ignore=ignore)
        outcome = CheckOutcome(
            report=report,
            diff=planned.diff,
            fixed=planned.findings,
            is_mended=bool(planned.diff) and not request.dry_run,
        )
    if request.sarif_path is not None:
        from trtllm_forge.check.sarif import write_sarif

        write_sarif(outcome.report, request.sarif_path)
    return outcome


def _rules(request: CheckRequest) -> tuple[tuple[str, ...], tuple[str, ...]]:
    from trtllm_forge.config.load import load_config
    from trtllm_forge.config.settings import build_option_environment

    flags: dict[str, object] = {
        name: ",".join(codes)
        for name, codes in (("select", request.select), ("ignore", request.ignore))
        if codes
    }
    loaded = load_config(
        flags=flags, config_path=request.config_path, environment=build_option_environment()
    )
    section = loaded.config.check
    return section.selected, section.ignored


def _options(request: CheckRequest) -> CheckOptions:
    if request.gpu is not None:
        from trtllm_forge.machine.gpu import named_gpu

        named_gpu(request.gpu)
    if request.mount_root is not None and not request.mount_root.startswith("/"):
        what = f"--mount-root {request.mount_root} is not an absolute path"
        raise ConfigError(what, hint=f"--mount-root /{request.mount_root.lstrip('./')}")
    return CheckOptions(
        trtllm_version=request.trtllm_version,
        mount_root=request.mount_root,
        gpu=request.gpu,
        world_size=request.world_size,
        shm_bytes=None if request.shm_size is None else size_in_bytes(request.shm_size),
    )
