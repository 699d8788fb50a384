"""What each rule says of its case: whole findings, as ``forge check --json`` prints them.

They stand in ``unit/check/findings.json``, by the case that they are of::

    {"FL101": [{"code": "FL101", "severity": "error", "model": "preprocessing", ...}], ...}

After a change of wording ``python -m tests.check_findings`` writes the file again. Nothing else
does: read the difference before it is committed.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.check_cases import CASES
from tests.check_fixtures import BASES
from trtllm_forge.check.run import check_repository

if TYPE_CHECKING:
    from tests.check_fixtures import Case

FINDINGS_PATH = Path(__file__).parent / "unit/check/findings.json"


def named_cases() -> dict[str, Case]:
    """Return the cases by their rule's code, numbered where a rule has several."""
    named: dict[str, Case] = {}
    for case in CASES:
        number = sum(other.code == case.code for other in named.values()) + 1
        named[case.code if number == 1 else f"{case.code}-{number}"] = case
    return named


def findings_of(case: Case, base_dir: Path, root: Path) -> list[dict[str, Any]]:
    """Return what the rule says of ``root``, made as a copy of ``base_dir`` that breaks it."""
    shutil.copytree(base_dir, root, symlinks=True)
    case.mutate(root)
    options = case.broken_options or case.options
    report = check_repository(root, options, select=(case.code,))
    text = json.dumps([finding.document() for finding in report.findings])
    return list(json.loads(text.replace(str(root), "<repository>")))


def main() -> None:
    """Write the findings of all cases."""
    with tempfile.TemporaryDirectory() as folder:
        bases = {name: build(Path(folder) / name) for name, build in BASES.items()}
        document = {
            name: findings_of(case, bases[case.base], Path(folder) / name)
            for name, case in sorted(named_cases().items())
        }
    text = json.dumps(document, indent=2, ensure_ascii=False)
    FINDINGS_PATH.write_text(f"{text}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
