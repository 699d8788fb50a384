"""``forge check``: what it prints, and how it mends."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2
from typer.testing import CliRunner

from tests.check_fixtures import (
    OPTIONS,
    all_of,
    engine_repository,
    parameter,
    remove,
    replace,
)
from tests.rendering import tree
from trtllm_forge.check.registry import all_rules
from trtllm_forge.check.run import check_repository
from trtllm_forge.check.sarif import sarif_document
from trtllm_forge.cli.app import app
from trtllm_forge.triton.repository.model_schema import schema_mistakes
from trtllm_forge.triton.repository.pbtxt import parse_pbtxt

CORE = "tensorrt_llm/config.pbtxt"
PRE = "preprocessing/config.pbtxt"
BLS = "tensorrt_llm_bls/config.pbtxt"
SERVER = "--trtllm-version 1.2.1 --mount-root /models"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return engine_repository(tmp_path / "sound")


def run(command: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, shlex.split(command), prog_name="forge")
    return result.exit_code, result.stdout, result.stderr


def test_sound_repository_ends_with_0_and_a_summary(root: Path) -> None:
    rules = len(all_rules())
    assert run(f"check {root} {SERVER}") == (
        0,
        f"0 errors, 0 warnings; {rules} rules, TensorRT-LLM 1.2.1 (--trtllm-version)\n",
        "",
    )


def test_findings_are_grouped_by_model_with_path_line_and_hint(root: Path) -> None:
    replace(PRE, 'name: "preprocessing"', 'name: "preprocess"')(root)
    parameter("tensorrt_llm", "gpt_model_type", "V1")(root)
    line = (root / CORE).read_text().splitlines().index(
        'parameters: { key: "gpt_model_type" value: { string_value: "V1" } }'
    ) + 1

    code, stdout, stderr = run(f"check {root} {SERVER}")

    assert (code, stderr) == (6, "next: forge check --explain FL112\n")
    assert stdout == (
        "preprocessing\n"
        "  preprocessing/config.pbtxt:2  error FL112  the model is named preprocess, its folder "
        "preprocessing\n"
        '      try:  name: "preprocessing"\n'
        "\n"
        "tensorrt_llm\n"
        f"  tensorrt_llm/config.pbtxt:{line}  warning FL318  gpt_model_type is V1: a batch ends "
        "before the next begins\n"
        "      try:  inflight_fused_batching\n"
        "\n"
        f"1 error, 1 warning; {len(all_rules())} rules, TensorRT-LLM 1.2.1 (--trtllm-version)\n"
    )


def test_json_is_one_document_with_the_keys_of_the_contract(root: Path) -> None:
    replace(PRE, 'name: "preprocessing"', 'name: "preprocess"')(root)
    code, stdout, stderr = run(f"check {root} {SERVER} --json")
    assert (code, stderr) == (6, "")
    document = json.loads(stdout)
    assert document == {
        "schema": 1,
        "repository": str(root),
        "trtllm_version": "1.2.1",
        "trtllm_version_origin": "--trtllm-version",
        "findings": [
            {
                "code": "FL112",
                "severity": "error",
                "model": "preprocessing",
                "path": "preprocessing/config.pbtxt",
                "line": 2,
                "message": "the model is named preprocess, its folder preprocessing",
                "hint": 'name: "preprocessing"',
            }
        ],
        "summary": {"errors": 1, "warnings": 0, "infos": 0, "rules": len(all_rules())},
    }


def test_warnings_alone_end_with_0(root: Path) -> None:
    parameter("tensorrt_llm", "gpt_model_type", "V1")(root)
    code, stdout, _ = run(f"check {root} {SERVER}")
    assert (code, stdout.splitlines()[-1][:20]) == (0, "0 errors, 1 warning;")


def test_select_and_ignore_take_codes_and_beginnings(root: Path) -> None:
    all_of(
        replace(PRE, 'name: "preprocessing"', 'name: "preprocess"'),
        parameter("tensorrt_llm", "gpt_model_type", "V1"),
    )(root)

    def found(options: str) -> list[str]:
        document = json.loads(run(f"check {root} {SERVER} --json {options}")[1])
        return [finding["code"] for finding in document["findings"]]

    assert found("--select FL1") == ["FL112"]
    assert found("--select fl112 --select FL3") == ["FL112", "FL318"]
    assert found("--select FL1,FL3 --ignore FL318") == ["FL112"]
    Path("forge.yaml").write_text("check:\n  ignore: FL112\n")
    assert found("") == ["FL318"]
    assert found("--ignore FL318") == ["FL112"]


@pytest.mark.parametrize(
    ("command", "text"),
    [
        (
            "check gone",
            "error: gone is not a folder\n  why:  a model repository holds one folder per model\n",
        ),
        (
            "check sound/repository/preprocessing",
            "error: sound/repository/preprocessing is a model, not a model repository\n"
            "  why:  it has a config.pbtxt\n"
            "  try:  forge check sound/repository\n",
        ),
        (
            "check sound",
            "error: sound holds no model\n"
            "  why:  no folder in it has a config.pbtxt\n"
            "  try:  forge check sound/repository\n",
        ),
        (
            "check sound/repository --select FL999",
            "error: there is no rule FL999\n"
            "  why:  codes go from FL101 to FL912; FL4 means all that begin with FL4\n"
            "  try:  --select FL101\n",
        ),
        (
            "check sound/repository --ignore name-differs",
            "error: there is no rule name-differs\n"
            "  why:  codes go from FL101 to FL912; FL4 means all that begin with FL4\n"
            "  try:  --ignore FL112\n",
        ),
        (
            "check sound/repository --dry-run",
            "error: --dry-run goes with --fix\n"
            "  why:  without --fix nothing is changed\n"
            "  try:  forge check sound/repository --fix --dry-run\n",
        ),
        (
            "check sound/repository --mount-root models",
            "error: --mount-root models is not an absolute path\n  try:  --mount-root /models\n",
        ),
        (
            "check sound/repository --shm-size much",
            "error: much is not a size\n"
            "  why:  a size is a number and a unit\n"
            "  try:  --shm-size 1g\n",
        ),
        (
            "check sound/repository --sarif gone/findings.sarif",
            "error: gone/findings.sarif cannot be written\n"
            "  why:  gone: no such file or directory\n"
            "  try:  --sarif findings.sarif\n",
        ),
    ],
)
def test_wrong_commands_are_refused_in_full(
    command: str, text: str, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(root.parents[1])
    assert run(command) == (2, "", text)


def test_release_that_is_not_known_is_refused(root: Path) -> None:
    code, _, stderr = run(f"check {root} --trtllm-version 9.9")
    assert code == 2
    assert stderr.startswith("error: the Triton models of TensorRT-LLM 9.9 are not known\n")


def test_examples_of_the_help_run(root: Path) -> None:
    Path("model_repos").mkdir()
    root.rename("model_repos/sample")
    for command in ("", " --trtllm-version 1.2.1 --json"):
        assert run(f"check model_repos/sample{command}")[0] == 0


def broken_in_all_ways_that_can_be_mended(root: Path) -> None:
    all_of(
        replace(PRE, 'name: "preprocessing"', 'name: "preprocess"'),
        replace(CORE, '"max_beam_width"', '"max_beam_widht"'),
        replace(BLS, "decoupled: true", "decoupled: false"),
        remove("ensemble/1"),
        parameter("tensorrt_llm", "decoding_mode", "${decoding_mode}"),
        parameter("tensorrt_llm", "exclude_input_in_output", "false "),
        lambda r: (r / "postprocessing/config.pbtxt").write_bytes(
            b"\xef\xbb\xbf" + (r / "postprocessing/config.pbtxt").read_bytes()
        ),
    )(root)


def test_fix_shows_a_diff_and_leaves_nothing_it_can_mend(root: Path) -> None:
    sound = tree(root)
    broken_in_all_ways_that_can_be_mended(root)
    (root / PRE).chmod(0o640)

    code, stdout, _ = run(f"check {root} {SERVER} --fix")

    assert code == 0
    assert "--- preprocessing/config.pbtxt\n+++ preprocessing/config.pbtxt\n" in stdout
    assert '-name: "preprocess"\n+name: "preprocessing"\n' in stdout
    assert "--- /dev/null\n+++ ensemble/1/.keep\n" in stdout
    mended = tree(root)
    assert mended == sound
    assert (root / PRE).stat().st_mode & 0o777 == 0o640
    assert run(f"check {root} {SERVER} --fix")[1].splitlines()[0].startswith("0 errors")


def test_fix_dry_run_shows_the_same_diff_and_changes_nothing(root: Path) -> None:
    broken_in_all_ways_that_can_be_mended(root)
    before = tree(root)
    code, stdout, _ = run(f"check {root} {SERVER} --fix --dry-run --json")
    document = json.loads(stdout)
    assert code == 6
    assert tree(root) == before
    assert document["fix"]["applied"] is False
    assert document["fix"]["findings"] == 7
    applied = json.loads(run(f"check {root} {SERVER} --fix --json")[1])
    assert applied["fix"] == {**document["fix"], "applied": True}
    assert applied["summary"]["errors"] == 0


def test_fix_leaves_what_has_two_right_answers(root: Path) -> None:
    replace(CORE, "max_batch_size: 64", "max_batch_size: ${batch}")(root)
    before = tree(root)
    code, stdout, _ = run(f"check {root} {SERVER} --fix")
    assert code == 6
    assert "---" not in stdout
    assert tree(root) == before


def test_sarif_has_a_result_for_each_finding_and_refers_to_its_rule(root: Path) -> None:
    replace(PRE, 'name: "preprocessing"', 'name: "preprocess"')(root)
    remove("ensemble/1")(root)
    assert run(f"check {root} {SERVER} --sarif findings.sarif")[0] == 6
    document = json.loads(Path("findings.sarif").read_text())
    assert document == sarif_document(check_repository(root, OPTIONS))
    (log,) = document["runs"]
    rules = log["tool"]["driver"]["rules"]
    assert [rule["id"] for rule in rules] == [rule.code for rule in all_rules()]
    assert [rules[r["ruleIndex"]]["id"] for r in log["results"]] == ["FL116", "FL112"]
    assert log["results"][1]["locations"] == [
        {
            "physicalLocation": {
                "artifactLocation": {
                    "uri": "preprocessing/config.pbtxt",
                    "uriBaseId": "REPOSITORY",
                },
                "region": {"startLine": 2},
            }
        }
    ]


def test_sarif_has_only_properties_and_values_of_version_2_1_0(root: Path) -> None:
    broken_in_all_ways_that_can_be_mended(root)
    document = sarif_document(check_repository(root, OPTIONS))
    assert list(_sarif_mistakes(document)) == []


_SARIF_PROPERTIES = {
    "log": {"$schema", "version", "runs"},
    "runs": {"tool", "originalUriBaseIds", "columnKind", "results"},
    "tool": {"driver"},
    "driver": {"name", "version", "semanticVersion", "rules"},
    "rules": {
        *("id", "name", "shortDescription", "fullDescription", "help", "defaultConfiguration"),
    },
    "shortDescription": {"text"},
    "fullDescription": {"text"},
    "help": {"text"},
    "defaultConfiguration": {"level"},
    "results": {"ruleId", "ruleIndex", "level", "message", "locations", "partialFingerprints"},
    "message": {"text"},
    "locations": {"physicalLocation"},
    "physicalLocation": {"artifactLocation", "region"},
    "artifactLocation": {"uri", "uriBaseId"},
    "region": {"startLine"},
}
"""The properties of SARIF 2.1.0 that are used, each below the object that has it there."""


def _sarif_mistakes(node: Any, name: str = "log") -> list[str]:
    if isinstance(node, list):
        return [mistake for child in node for mistake in _sarif_mistakes(child, name)]
    if not isinstance(node, dict) or name in ("originalUriBaseIds", "partialFingerprints"):
        return []
    found = [f"{name}.{key}" for key in node if key not in _SARIF_PROPERTIES[name]]
    if node.get("level", "none") not in ("none", "note", "warning", "error"):
        found.append(f"level {node['level']}")
    if name == "region" and node["startLine"] < 1:
        found.append("startLine")
    return found + [m for key, child in node.items() for m in _sarif_mistakes(child, key)]


def test_parameter_by_its_name_elsewhere_is_named_and_mended(root: Path) -> None:
    replace(CORE, '"gpt_model_path"', '"engine_dir"')(root)
    code, stdout, _ = run(f"check {root} {SERVER} --fix")
    assert code == 0
    assert '"gpt_model_path"' in (root / CORE).read_text()
    assert '+parameters: { key: "gpt_model_path"' in stdout


TEXTS = (
    "",
    'name: "a"',
    "name: 'a' 'b'",
    'name: "a" name: "b"',
    "name: a",
    'nme: "a"',
    "max_batch_size: 8",
    "max_batch_size: -8",
    "max_batch_size: 8.5",
    "max_batch_size: 99999999999",
    'max_batch_size: "8"',
    "max_batch_size 8",
    "max_batch_size: {}",
    "input { name: 'x' dims: [1, -1] }",
    "input [ { name: 'x' }, { name: 'y' } ]",
    "input [ { name: 'x' } ",
    "input { name: 'x' } }",
    "input: 3",
    "input { data_type: TYPE_INT32 }",
    "input { data_type: TYPE_INT33 }",
    "input { data_type: 8 }",
    "input { optional: true }",
    "input { optional: yes }",
    "model_transaction_policy { decoupled: True }",
    "dynamic_batching { } ensemble_scheduling { }",
    "parameters { key: 'a' value { string_value: 'b' } }",
    "parameters: { key: 'a', value: { string_value: 'b' } };",
    "# nothing\nname: 'a' # here",
    "name: 'a",
    'name: "a\nb"',
    "instance_group < count: 1 >",
    "input { dims: [] }",
)


@pytest.mark.parametrize("text", TEXTS)
def test_a_text_is_taken_or_refused_as_protobuf_does(text: str) -> None:
    try:
        text_format.Parse(text, model_config_pb2.ModelConfig())
        is_taken = True
    except text_format.ParseError:
        is_taken = False
    _, mistakes = parse_pbtxt(text)
    assert (not mistakes and not schema_mistakes(text)) == is_taken
