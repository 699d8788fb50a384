"""The findings as SARIF 2.1.0, which code hosts show beside the lines.

Source: OASIS, "Static Analysis Results Interchange Format (SARIF) Version 2.1.0".
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING
from urllib.parse import quote

from trtllm_forge import __version__
from trtllm_forge.errors import unwritable
from trtllm_forge.files.staging import write_whole

if TYPE_CHECKING:
    from pathlib import Path

    from trtllm_forge.check.finding import Finding, Rule
    from trtllm_forge.check.run import Report

SCHEMA_URI = "https://json.schemastore.org/sarif-2.1.0.json"
_LEVELS = {"error": "error", "warning": "warning", "info": "note"}


def sarif_document(report: Report) -> dict[str, object]:
    """Return the log of one run; paths are relative to the repository."""
    positions = {rule.code: index for index, rule in enumerate(report.rules)}
    return {
        "$schema": SCHEMA_URI,
        "version": "2.1.0",
        "runs": [
            {
                "tool": {
                    "driver": {
                        "name": "forge check",
                        "version": __version__,
                        "semanticVersion": __version__,
                        "rules": [_rule(rule) for rule in report.rules],
                    }
                },
                "originalUriBaseIds": {"REPOSITORY": {"uri": f"{report.root.resolve().as_uri()}/"}},
                "columnKind": "unicodeCodePoints",
                "results": [_result(finding, positions) for finding in report.findings],
            }
        ],
    }


def write_sarif(report: Report, path: Path) -> None:
    """Write the findings of a report.

    Raises:
        ConfigError: The file cannot be written.
    """
    text = json.dumps(sarif_document(report), indent=2) + "\n"
    try:
        write_whole(path, text)
    except OSError as error:
        hint = f"--sarif {path.name}" if isinstance(error, FileNotFoundError) else ""
        raise unwritable(path, error, hint=hint) from error


def _rule(rule: Rule) -> dict[str, object]:
    return {
        "id": rule.code,
        "name": "".join(part.capitalize() for part in rule.name.split("-")),
        "shortDescription": {"text": rule.explanation.sentence},
        "fullDescription": {"text": rule.explanation.why},
        "help": {"text": rule.explanation.fix},
        "defaultConfiguration": {"level": _LEVELS[rule.severity]},
    }


def _result(finding: Finding, positions: dict[str, int]) -> dict[str, object]:
    location: dict[str, object] = {
        "artifactLocation": {"uri": quote(finding.path or "."), "uriBaseId": "REPOSITORY"}
    }
    if finding.line is not None:
        location["region"] = {"startLine": finding.line}
    message = finding.message + (f"; try: {finding.hint}" if finding.hint else "")
    return {
        "ruleId": finding.code,
        "ruleIndex": positions[finding.code],
        "level": _LEVELS[finding.severity],
        "message": {"text": message},
        "locations": [{"physicalLocation": location}],
        "partialFingerprints": {
            "forgeFinding/v1": f"{finding.code}:{finding.model}:{finding.message}"
        },
    }
