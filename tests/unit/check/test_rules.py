"""Each rule finds what breaks it, and nothing in the same repository unbroken."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.check_cases import CASES
from tests.check_findings import FINDINGS_PATH, findings_of, named_cases
from tests.check_fixtures import BASES, OPTIONS, codes
from trtllm_forge.check.registry import all_rules
from trtllm_forge.check.run import check_repository

if TYPE_CHECKING:
    from trtllm_forge.check.finding import Rule
    from trtllm_forge.check.view import CheckOptions

DOCS_PATH = Path(__file__).resolve().parents[3] / "docs/rules.md"
NAMED_CASES = named_cases()
FINDINGS = json.loads(FINDINGS_PATH.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("bases")
    return {name: build(folder / name) for name, build in BASES.items()}


@pytest.mark.parametrize("name", NAMED_CASES)
def test_rule_finds_its_mutation(name: str, bases: dict[str, Path], tmp_path: Path) -> None:
    case = NAMED_CASES[name]
    found = findings_of(case, bases[case.base], tmp_path / "repository")
    assert found
    if case.path is not None:
        assert case.path in [finding["path"] for finding in found]
    assert found == FINDINGS[name], "if the new text is right: python -m tests.check_findings"


def test_findings_are_of_the_cases_alone() -> None:
    assert set(FINDINGS) == set(NAMED_CASES)


@pytest.mark.parametrize(
    ("base", "options"),
    sorted({(case.base, case.options) for case in CASES}, key=str),
    ids=str,
)
def test_no_rule_finds_anything_in_what_its_mutation_starts_from(
    base: str, options: CheckOptions, bases: dict[str, Path]
) -> None:
    found = codes(check_repository(bases[base], options))
    assert [
        c.code for c in CASES if (c.base, c.options) == (base, options) and c.code in found
    ] == []


@pytest.mark.parametrize("name", BASES)
def test_sound_repository_has_neither_errors_nor_warnings(
    name: str, bases: dict[str, Path]
) -> None:
    report = check_repository(bases[name], OPTIONS)
    assert [f for f in report.findings if f.severity != "info"] == []


def test_every_rule_has_a_case() -> None:
    assert sorted({case.code for case in CASES}) == [rule.code for rule in all_rules()]


def test_names_of_rules_differ() -> None:
    names = [rule.name for rule in all_rules()]
    assert len(set(names)) == len(names)


def test_page_describes_exactly_the_rules_of_the_code() -> None:
    headings = re.findall(r"^### (FL\d+) (\S+) \((\w+)\)$", DOCS_PATH.read_text(), re.MULTILINE)
    assert headings == [(rule.code, rule.name, rule.severity) for rule in all_rules()]


@pytest.mark.parametrize("rule", all_rules(), ids=lambda rule: rule.code)
def test_every_rule_explains_itself(rule: Rule) -> None:
    said = rule.explanation

    assert said.sentence.endswith(".")
    assert said.why.endswith((".", "`"))
    assert said.fix
    assert all(address.startswith("https://") for address in said.upstream)
    assert not {"Why:", "Fix:", "Upstream:"} & set(f"{said.details} {said.why} {said.fix}".split())
