"""The ``check`` stage: run the linter over the rendered repository before it is published.

Its artifact is ``findings.json``, the document of ``forge check --json``. An error ends the build,
so that a repository known to fail is never published.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

from trtllm_forge import __version__
from trtllm_forge.check import RULES_VERSION
from trtllm_forge.errors import RenderError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from trtllm_forge.check.finding import Finding
    from trtllm_forge.files.digest import JsonValue
    from trtllm_forge.machine.process.command import Command
    from trtllm_forge.reporter import Reporter

FINDINGS_NAME = "findings.json"
_SHOWN_FINDINGS = 20


@dataclass(frozen=True, kw_only=True)
class CheckStage:
    """Applies the linter's rules.

    Attributes:
        trtllm_version: The release whose models the repository has.
        mount_root: Where it is mounted for serving, None for anywhere.
        select: Codes of the rules to apply; empty for all.
        ignore: Codes of the rules to skip.
    """

    trtllm_version: str
    mount_root: str | None = None
    select: tuple[str, ...] = ()
    ignore: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """Return the stage's name."""
        return "check"

    @property
    def parameters(self) -> Mapping[str, JsonValue]:
        """Return which rules are applied, and their version."""
        return {
            "trtllm_version": self.trtllm_version,
            "mount_root": self.mount_root,
            "select": list(self.select),
            "ignore": list(self.ignore),
            "rules_version": RULES_VERSION,
        }

    @property
    def tool_versions(self) -> Mapping[str, str]:
        """Return forge's own version."""
        return {"trtllm-forge": __version__}

    @property
    def outputs(self) -> Sequence[str]:
        """Return the findings."""
        return (FINDINGS_NAME,)

    def commands(self, work_dir: Path, inputs: Mapping[str, Path]) -> Sequence[Command]:
        """Return nothing: checking starts no process."""
        return ()

    def run(self, work_dir: Path, inputs: Mapping[str, Path], reporter: Reporter) -> None:
        """Check the rendered repository and reject it if a rule finds an error."""
        # Imported here because the rules take a while to import, and a fresh build skips them.
        from trtllm_forge.check.run import check_repository
        from trtllm_forge.check.view import CheckOptions

        options = CheckOptions(
            trtllm_version=self.trtllm_version, mount_root=self.mount_root, has_other_mounts=True
        )
        report = check_repository(inputs["render"], options, select=self.select, ignore=self.ignore)
        for finding in report.findings:
            if finding.severity == "warning":
                reporter.warning(_line(finding))
        errors = [finding for finding in report.findings if finding.severity == "error"]
        if errors:
            count = f"{len(errors)} rule{'s' if len(errors) > 1 else ''}"
            what = f"the rendered repository breaks {count} and is not published"
            why = "\n".join(_line(finding) for finding in errors[:_SHOWN_FINDINGS])
            codes = ",".join(dict.fromkeys(finding.code for finding in errors))
            raise RenderError(what, why=why, hint=f"FORGE_IGNORE={codes} forge build ...")
        document = {**report.document(), "repository": "."}
        text = json.dumps(document, indent=2, sort_keys=True) + "\n"
        (work_dir / FINDINGS_NAME).write_text(text, encoding="utf-8")


def _line(finding: Finding) -> str:
    place = f"{finding.path}:{finding.line}" if finding.line else finding.path
    return f"{place}: {finding.code} {finding.message}".removeprefix(": ")
