"""Workflows as data, and documents as Markdown."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from trtllm_forge import __version__
from trtllm_forge.delivery.ci.github import github_text
from trtllm_forge.delivery.ci.gitlab import gitlab_text
from trtllm_forge.delivery.ci.summary import code, summarize
from trtllm_forge.delivery.ci.workflow import Step, Workflow, plan_workflow
from trtllm_forge.errors import ConfigError
from trtllm_forge.files.output import write_workflow

ACTION = re.compile(r"[\w-]+/[\w/-]+@v\d+")


def plan(config: str = "model: sample\n", *, with_gpu: bool = False, **options: Any) -> Workflow:
    Path("forge.yaml").write_text(config, encoding="utf-8")
    asked: dict[str, Any] = {"system": "github", "model": None, "config_path": None, **options}
    return plan_workflow(with_gpu=with_gpu, **asked)


def github(workflow: Workflow, *, code_scanning: bool = False) -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load(github_text(workflow, code_scanning=code_scanning))
    return document


def gitlab(workflow: Workflow) -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load(gitlab_text(workflow))
    return document


def build_words(script: str) -> list[str]:
    """Return the words of the line that builds, up to its first shell variable."""
    line = next(line for line in script.splitlines() if line.startswith("forge build"))
    return shlex.split(line.split(" --output")[0])


def twin_build(config: str, **options: Any) -> list[str]:
    steps = {step.key: step.script for step in plan(config, **options).twin.steps}
    return build_words(steps["build"])


def scripts(workflow: Workflow) -> list[str]:
    found = [
        str(step["run"])
        for job in github(workflow)["jobs"].values()
        for step in job["steps"]
        if "run" in step
    ]
    for job in gitlab(workflow).values():
        if isinstance(job, dict):
            found += ["\n".join(job["script"]), "\n".join(job["after_script"])]
    return found


def test_twin_is_built_from_forge_yaml() -> None:
    assert twin_build("model: sample\n") == ["forge", "build", "--runtime", "openvino"]


def test_given_model_and_configuration_are_built() -> None:
    Path("other.yaml").write_text("name: mine\n", encoding="utf-8")
    workflow = plan(model="sample", config_path=Path("other.yaml"))

    assert build_words(workflow.twin.steps[1].script) == (
        ["forge", "build", "sample", "--config", "other.yaml", "--runtime", "openvino"]
    )
    assert (workflow.name, workflow.twin.repository) == ("mine", "model_repos/mine")
    assert workflow.key_files == ("other.yaml", "forge.lock")
    assert workflow.command == "forge ci github sample --config other.yaml"


@pytest.mark.parametrize(
    ("key", "flags"),
    [
        ("precision: int4", []),
        ("precision: int4_awq", ["--int4"]),
        ("precision: nvfp4", ["--int4"]),
        ("precision: fp8", ["--int8"]),
        ("precision: int8_sq", ["--int8"]),
        ("precision: bf16", ["--fp16"]),
        ("tp_size: 2", ["--tp", "1", "--pp", "1"]),
        ("speculative: prompt_lookup", ["--speculative", "none"]),
        ("gather_context_logits: true", ["--no-gather-context-logits"]),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_twin_takes_the_nearest_of_what_only_an_engine_has(key: str, flags: list[str]) -> None:
    words = twin_build(f"model: sample\nbuild:\n  {key}\n")

    assert words == ["forge", "build", "--runtime", "openvino", *flags]


@pytest.mark.parametrize(
    ("key", "value"), [("kv_cache", "fp8"), ("gemm_plugin", "auto"), ("lora_dir", "adapter")]
)
def test_option_that_the_twin_cannot_drop_is_refused(key: str, value: str) -> None:
    with pytest.raises(ConfigError) as caught:
        plan(f"model: sample\nbuild:\n  {key}: {value}\n")

    assert caught.value.what == f"the twin does not support build.{key}, which is {value}"
    assert caught.value.why == (
        "only TensorRT-LLM has it (forge.yaml:3), and the workflow builds the twin first"
    )
    assert caught.value.hint == (
        f"take {key} out of forge.yaml, and set FORGE_{key.upper()} on the GPU runner"
    )


@pytest.mark.parametrize(
    ("runtime", "built"), [("auto", "trtllm"), ("openvino", "trtllm"), ("llmapi", "llmapi")]
)
def test_gpu_job_builds_for_the_runtime_of_forge_yaml(runtime: str, built: str) -> None:
    workflow = plan(f"model: sample\nruntime: {runtime}\n", with_gpu=True)

    assert workflow.gpu is not None
    script = workflow.gpu.steps[1].script
    assert build_words(script) == ["forge", "build", "--runtime", built, "--yes"]


def test_variables_of_the_writers_shell_play_no_part(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORGE_PRECISION", "fp8")

    assert twin_build("model: sample\n") == ["forge", "build", "--runtime", "openvino"]


def test_every_script_is_bash() -> None:
    for script in scripts(plan(with_gpu=True)):
        done = subprocess.run(
            ["bash", "-n"], input=script, capture_output=True, text=True, check=False
        )
        assert (done.returncode, done.stderr) == (0, ""), script


def test_actions_are_pinned_by_major_version() -> None:
    document = github(plan(with_gpu=True), code_scanning=True)
    uses = [
        step["uses"] for job in document["jobs"].values() for step in job["steps"] if "uses" in step
    ]

    assert [name for name in uses if not ACTION.fullmatch(name)] == []
    assert {name.split("/")[0] for name in uses} == {"actions", "github"}


def test_github_workflow_may_only_read_unless_code_scanning_is_wanted() -> None:
    plain = github(plan(with_gpu=True))
    scanning = github(plan(with_gpu=True), code_scanning=True)

    assert plain["permissions"] == scanning["permissions"] == {"contents": "read"}
    assert [job.get("permissions") for job in plain["jobs"].values()] == [None, None]
    assert [job.get("permissions") for job in scanning["jobs"].values()] == [
        {"contents": "read", "security-events": "write"},
        None,
    ]


def test_only_the_build_step_sees_the_hubs_token() -> None:
    document = github(plan(with_gpu=True))

    for job in document["jobs"].values():
        holders = [step["name"] for step in job["steps"] if "secrets." in json.dumps(step)]
        assert len(holders) == 1
        assert holders[0].startswith("Build")
        assert "secrets." not in json.dumps(job["env"])


def test_gitlab_takes_the_hubs_token_away_after_the_build() -> None:
    for job in (gitlab(plan(with_gpu=True))[name] for name in ("forge twin", "forge gpu")):
        build = next(i for i, line in enumerate(job["script"]) if "forge build" in line)
        assert job["script"][build + 1] == "unset HF_TOKEN"


def test_every_job_has_a_time_limit() -> None:
    workflow = plan(with_gpu=True)

    limits = [job["timeout-minutes"] for job in github(workflow)["jobs"].values()]
    pipeline = gitlab(workflow)
    assert limits == [60, 360]
    assert [pipeline[f"forge {job}"]["timeout"] for job in ("twin", "gpu")] == [
        "60 minutes",
        "360 minutes",
    ]


def test_pull_requests_do_not_reach_the_gpu_runner() -> None:
    workflow = plan(with_gpu=True)

    assert github(workflow)["jobs"]["gpu"]["if"] == "github.event_name != 'pull_request'"
    rules = gitlab(workflow)["forge gpu"]["rules"]
    assert [rule for rule in rules if "merge_request" in rule["if"]] == []


def test_cache_key_is_made_of_configuration_lock_and_version() -> None:
    steps = {step["name"]: step for step in github(plan())["jobs"]["twin"]["steps"]}
    cache = gitlab(plan())["forge twin"]["cache"]

    assert steps["Restore the store"]["with"] == {
        "path": "forge-ci/store",
        "key": f"forge-{__version__}-sample-${{{{ hashFiles('forge.yaml', 'forge.lock') }}}}",
        "restore-keys": f"forge-{__version__}-sample-",
    }
    assert cache == {
        "key": {"files": ["forge.yaml", "forge.lock"], "prefix": f"forge-{__version__}-sample"},
        "paths": ["forge-ci/store"],
        "when": "always",
    }


def test_default_install_is_this_version_and_no_index_is_named() -> None:
    workflow = plan(with_gpu=True)
    env = {name: job["env"] for name, job in github(workflow)["jobs"].items()}
    pipeline = gitlab(workflow)

    wanted = f"trtllm-forge[cpu]=={__version__}"
    assert env["twin"]["FORGE_INSTALL"] == f"${{{{ vars.FORGE_INSTALL || '{wanted}' }}}}"
    assert pipeline["forge twin"]["variables"]["FORGE_INSTALL"] == wanted
    assert pipeline["forge gpu"]["variables"]["FORGE_INSTALL_GPU"] == f"trtllm-forge=={__version__}"
    for text in (github_text(workflow, code_scanning=True), gitlab_text(workflow)):
        assert "://" not in text


def test_folder_named_like_an_expression_stays_text() -> None:
    folder = Path("a ${{ secrets.X }}'b")
    folder.mkdir()
    workflow = plan("name: mine\n", model=f"./{folder}")

    build = next(s for s in github(workflow)["jobs"]["twin"]["steps"] if s.get("id") == "build")

    # What the runner makes of it: the only expression left gives the two braces.
    assert re.findall(r"\$\{\{(.*?)\}\}", build["run"])[0] == " '${{' "
    assert build_words(build["run"].replace("${{ '${{' }}", "${{"))[2] == f"./{folder}"


@settings(max_examples=100, deadline=None)
@given(text=st.text(alphabet="a1 :#'\"|->&*[]{}%$?!,é\n\r\t\a\x85\u2028", min_size=1, max_size=12))
def test_any_text_stays_the_value_it_was(text: str) -> None:
    planned = plan(with_gpu=True)
    step = Step(key="build", name=text, script=f"{text}\n", takes_token=True)
    twin = replace(planned.twin, repository=text, package=text, steps=(step,))
    workflow = replace(
        planned, name=text, command=text.replace("\a", ""), twin=twin, key_files=(text,)
    )

    document = github(workflow)
    job = document["jobs"]["twin"]
    steps = {step["name"]: step for step in job["steps"]}
    assert list(document) == ["name", "on", "permissions", "concurrency", "defaults", "jobs"]
    assert (document["name"], job["env"]["REPOSITORY"]) == (f"forge {text}", text)
    assert steps[text]["run"].replace("${{ '${{' }}", "${{") == f"{text}\n"
    assert steps["Upload"]["with"]["path"].startswith(f"{text}\n{text}/forge.lock\n")
    assert list(document["jobs"]) == ["twin", "gpu"]

    pipeline = gitlab(workflow)
    assert list(pipeline) == ["stages", "forge twin", "forge gpu"]
    job = pipeline["forge twin"]
    assert job["script"][0].rstrip("\n") == text.rstrip("\n")
    assert job["cache"]["key"]["files"] == job["artifacts"]["paths"][:1] == [text]


def test_failed_write_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    with pytest.raises(ConfigError) as caught:
        write_workflow(tmp_path / "file" / "x.yml", "a", replace=False, again="")

    assert caught.value.what == f"{tmp_path}/file/x.yml cannot be written"
    assert caught.value.why == f"{tmp_path}/file: file exists"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


BUILD = {
    "schema": 1,
    "model": {
        "repo_id": "org/model",
        "revision": "abc",
        "architecture": "GPTBigCodeForCausalLM",
        "family": "starcoder",
    },
    "runtime": "openvino",
    "trtllm_version": "1.2.1",
    "container": None,
    "repository": "model_repos/model",
    "stages": [
        {"name": "download", "run": False, "reasons": ["fresh"], "seconds": 0.04},
        {
            "name": "compile",
            "run": True,
            "reasons": ["precision int8 became int4", "forced"],
            "seconds": 18.52,
            "peak_rss_bytes": 700 << 20,
        },
    ],
}
CHECK = {
    "schema": 1,
    "findings": [
        {
            "code": "FL900",
            "severity": "warning",
            "model": "ensemble",
            "path": None,
            "line": None,
            "message": "late",
            "hint": "",
        },
        {
            "code": "FL101",
            "severity": "error",
            "model": "tensorrt_llm",
            "path": "tensorrt_llm/config.pbtxt",
            "line": 7,
            "message": "a | b",
            "hint": "write ${x}",
        },
    ],
    "summary": {"errors": 1, "warnings": 1},
}
PROBE = {
    "schema": 1,
    "probes": [
        {"name": "live", "ok": True, "seconds": 0.004, "detail": "Triton 2.51.0"},
        {"name": "text", "ok": False, "seconds": 1.5, "detail": "found none"},
    ],
}
FAILURE = {
    "schema": 1,
    "error": {"what": "w", "why": "", "hint": "forge x", "log_path": None, "exit_code": 7},
}


def written(name: str, document: object) -> Path:
    path = Path(name)
    path.write_text(json.dumps(document), encoding="utf-8")
    return path


def test_build_is_summarized_with_its_stages() -> None:
    assert summarize([written("b.json", BUILD)]) == (
        "### ✅ Build of `org/model`\n"
        "\n"
        "|  |  |\n"
        "|---|---|\n"
        "| revision | `abc` |\n"
        "| architecture | `GPTBigCodeForCausalLM` |\n"
        "| runtime | `openvino` |\n"
        "| TensorRT-LLM | `1.2.1` |\n"
        "| repository | `model_repos/model` |\n"
        "\n"
        "| Stage | Ran | Time | Peak memory | Why |\n"
        "|---|---|---|---|---|\n"
        "| `download` | no | 0.0 s |  | `fresh` |\n"
        "| `compile` | yes | 18.5 s | 700 MiB | `precision int8 became int4; forced` |\n"
    )


def test_findings_are_summarized_with_errors_first() -> None:
    assert summarize([written("c.json", CHECK)]) == (
        "### ❌ Check: 1 error, 1 warning\n"
        "\n"
        "|  | Rule | Where | What | How to fix |\n"
        "|---|---|---|---|---|\n"
        "| error | `FL101` | `tensorrt_llm/config.pbtxt:7` | `a \\| b` | `write ${x}` |\n"
        "| warning | `FL900` | `ensemble` | `late` |  |\n"
    )


def test_probes_and_failures_are_summarized_a_section_each() -> None:
    assert summarize([written("p.json", PROBE), written("e.json", FAILURE)]) == (
        "### ❌ Probe: 1 of 2 ok\n"
        "\n"
        "|  | Probe | Time | What was found |\n"
        "|---|---|---|---|\n"
        "| ✅ | `live` | 0.00 s | `Triton 2.51.0` |\n"
        "| ❌ | `text` | 1.50 s | `found none` |\n"
        "\n"
        "### ❌ Failed, exit code 7\n"
        "\n"
        "|  |  |\n"
        "|---|---|\n"
        "| what | `w` |\n"
        "| try | `forge x` |\n"
    )


def test_bench_is_summarized_by_its_leaves() -> None:
    bench = {"bench": {"ttft_ms": {"p50": 12.3456}, "runs": [{"ok": True}]}}

    assert summarize([written("x.json", bench)]) == (
        "### Bench\n"
        "\n"
        "| Figure | Value |\n"
        "|---|---|\n"
        "| `ttft_ms.p50` | `12.35` |\n"
        "| `runs[0].ok` | `True` |\n"
    )


@pytest.mark.parametrize("text", [None, "", "\n"], ids=["absent", "empty", "blank"])
def test_document_that_was_not_written_is_told_of(text: str | None) -> None:
    if text is not None:
        Path("probe.json").write_text(text)

    assert summarize([Path("probe.json")]) == (
        "### `probe.json`\n\nNot written: its command did not run or was terminated.\n"
    )


def test_a_long_list_is_cut() -> None:
    findings = [{**CHECK["findings"][0], "code": f"FL{n}"} for n in range(103)]  # type: ignore[index]
    page = summarize([written("c.json", {**CHECK, "findings": findings})])

    assert page.count("| warning |") == 100
    assert page.endswith("\n\nAnd 3 more.\n")


def rendered_cells(page: str) -> list[list[tuple[str, str]]]:
    """Return what each cell of a page's tables is made of, as kinds and texts."""
    tokens = MarkdownIt("commonmark", {"html": True}).enable("table").parse(page)
    cells = []
    for before, token in pairwise(tokens):
        if before.type == "td_open":
            cells.append([(child.type, child.content) for child in token.children or ()])
    return cells


@pytest.mark.parametrize(
    "text",
    [
        "<script>alert(1)</script>",
        "a | b",
        "a \\| b \\\\| c",
        "`` ` ```",
        "`x`",
        "[x](http://127.0.0.1) ![y](z)",
        "**bold** _it_ ~~no~~ @team #1 &lt;",
        "</td></tr></table>\n\n# heading\n| x |",
        "\u202egnp.exe",
        "\\",
    ],
)
def test_foreign_text_stays_text(text: str) -> None:
    document = {"probes": [{"name": "n", "ok": True, "seconds": 0, "detail": text}]}

    cells = rendered_cells(summarize([written("p.json", document)]))

    assert len(cells) == 4
    plain = re.sub("[\n\u202e]+", " ", text).strip()
    assert cells[3] == [("code_inline", plain)]


@settings(max_examples=200, deadline=None)
@given(text=st.text(alphabet="a `|\\<>*_[]()&\n\t~$", max_size=20))
def test_any_text_is_one_code_span(text: str) -> None:
    plain = re.sub("[\n\t]+", " ", text).strip()

    row = f"| x | y |\n|---|---|\n| {code(text).replace('|', chr(92) + '|')} | z |\n"

    assert rendered_cells(row)[0] == ([("code_inline", plain)] if plain else [])


def test_long_foreign_text_is_cut() -> None:
    assert len(code("x" * 10_000)) == 402
