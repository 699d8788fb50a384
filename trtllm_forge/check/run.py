"""Applies the rules to a model repository."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from trtllm_forge.check.finding import Finding
from trtllm_forge.check.registry import selected_rules
from trtllm_forge.check.release import release_of
from trtllm_forge.check.view import CheckOptions, read_repository
from trtllm_forge.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from trtllm_forge.check.finding import Rule, Severity
    from trtllm_forge.check.release import ServedRelease

SCHEMA = 1


@dataclass(frozen=True, kw_only=True)
class Report:
    """What was found in a repository.

    Attributes:
        root: The repository.
        findings: By model, path and line.
        release: The release it was held against, None when nothing told.
        rules: How many rules were applied.
    """

    root: Path
    findings: tuple[Finding, ...]
    release: ServedRelease | None
    rules: tuple[Rule, ...]

    def count(self, severity: Severity) -> int:
        """Return the number of findings of a severity."""
        return sum(finding.severity == severity for finding in self.findings)

    def document(self) -> dict[str, object]:
        """Return the JSON document of ``forge check``."""
        release = self.release
        return {
            "schema": SCHEMA,
            "repository": str(self.root),
            "trtllm_version": None if release is None else release.version,
            "trtllm_version_origin": None if release is None else release.origin,
            "findings": [finding.document() for finding in self.findings],
            "summary": {
                "errors": self.count("error"),
                "warnings": self.count("warning"),
                "infos": self.count("info"),
                "rules": len(self.rules),
            },
        }


def check_repository(
    root: Path,
    options: CheckOptions | None = None,
    *,
    select: Sequence[str] = (),
    ignore: Sequence[str] = (),
) -> Report:
    """Apply the rules to a model repository.

    Args:
        root: Its folder.
        options: What is known of the server it is for.
        select: Codes, or beginnings of codes, of the rules to apply; none means all.
        ignore: The same, of rules to leave out.

    Raises:
        ConfigError: There is no repository, an unknown rule is named, or the release is unknown.
    """
    rules = selected_rules(select, ignore)
    _require_repository(root)
    view = read_repository(root, options or CheckOptions())
    release = release_of(view)
    findings = [
        Finding(
            code=rule.code,
            severity=problem.severity or rule.severity,
            model=problem.model,
            path=problem.path,
            line=problem.line,
            message=problem.message,
            hint=problem.hint,
            edits=problem.edits,
        )
        for rule in rules
        for problem in rule.check(view)
    ]
    findings.sort(key=lambda f: (f.model, f.path, f.line or 0, f.code, f.message))
    return Report(root=root, findings=tuple(dict.fromkeys(findings)), release=release, rules=rules)


def _require_repository(root: Path) -> None:
    if not root.is_dir():
        what = f"{root} is not a folder"
        raise ConfigError(what, why="a model repository holds one folder per model")
    if (root / "config.pbtxt").is_file():
        what = f"{root} is a model, not a model repository"
        raise ConfigError(what, why="it has a config.pbtxt", hint=f"forge check {root.parent}")
    if not any(root.glob("*/config.pbtxt")) and not any(root.glob("*/1")):
        what = f"{root} holds no model"
        why = "no folder in it has a config.pbtxt"
        nested = next(root.glob("*/*/config.pbtxt"), None)
        hint = f"forge check {nested.parent.parent}" if nested else ""
        raise ConfigError(what, why=why, hint=hint)
