"""The steps of the generated workflows, run as a runner would: in a bare folder, by its bash.

Only what a runner brings is played: the checked-out files, the restored store, and the forge
that the install step would have put on PATH.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from tests.conftest import isolated_environment

if TYPE_CHECKING:
    from tests.twin import TwinWorkshop

# The workflows serve on the usual ports.
pytestmark = pytest.mark.triton

ROOT = Path(__file__).resolve().parents[2]
STEP_DEADLINE_S = 180
TOKEN = "hf_" + "s3cret" * 5
INSTALL = (
    "# TORCH_INDEX: an index with CPU builds of torch; PyPI's own build brings CUDA's libraries.\n"
    'python -m pip install ${TORCH_INDEX:+--extra-index-url "$TORCH_INDEX"} "$FORGE_INSTALL"\n'
)

# What GitHub puts for each expression of the workflow; any other fails the test.
EXPRESSIONS = {
    "vars.FORGE_INSTALL || 'trtllm-forge[cpu]==0.1.0'": "trtllm-forge[cpu]==0.1.0",
    "vars.TORCH_INDEX": "",
    "secrets.HF_TOKEN": TOKEN,
}


@dataclass(frozen=True, kw_only=True)
class Ran:
    """A step that was run."""

    name: str
    exit_code: int
    output: str


@dataclass(frozen=True, kw_only=True)
class Runner:
    """A machine with a checked-out project, bash and forge."""

    root: Path
    environment: dict[str, str] = field(default_factory=dict)

    @property
    def work_dir(self) -> Path:
        """The workspace."""
        return self.root / "work"

    def bash(self, script: str, environment: dict[str, str]) -> tuple[int, str]:
        """Run a script as GitHub's ``shell: bash`` and GitLab's runner both do."""
        path = self.root / "step.sh"
        path.write_text(script, encoding="utf-8")
        done = subprocess.run(
            ["bash", "--noprofile", "--norc", "-eo", "pipefail", str(path)],
            cwd=self.work_dir,
            env={**self.environment, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=STEP_DEADLINE_S,
            check=False,
        )
        return done.returncode, done.stdout

    def forge(self, *arguments: str) -> None:
        """Run a forge command, as the project's owner did before."""
        code, output = self.bash(shlex.join(["forge", *arguments]), {})
        assert code == 0, output

    def read(self, name: str) -> dict[str, Any]:
        """Return one of the documents that the steps wrote."""
        document: dict[str, Any] = json.loads((self.work_dir / name).read_text("utf-8"))
        return document


def make_runner(root: Path, workshop: TwinWorkshop) -> Runner:
    """Return a runner whose project holds a forge.yaml of the sample and nothing else."""
    bin_dir = root / "bin"
    bin_dir.mkdir()
    forge = bin_dir / "forge"
    forge.write_text(
        f"#!/bin/sh\nPYTHONPATH={shlex.quote(str(ROOT))} "
        f'exec {shlex.quote(sys.executable)} -m trtllm_forge "$@"\n'
    )
    forge.chmod(0o755)
    environment = {
        **isolated_environment(root / "home"),
        "PATH": f"{bin_dir}{os.pathsep}{os.environ['PATH']}",
        "CI": "true",
        "GITHUB_STEP_SUMMARY": str(root / "step_summary.md"),
    }
    runner = Runner(root=root, environment=environment)
    runner.work_dir.mkdir()
    runner.forge("init", "sample", "--int4")
    restored = runner.work_dir / "forge-ci" / "store"
    for entry_path in workshop.cache_dir.glob("*/*/*/entry.json"):
        entry_dir = entry_path.parent
        shutil.copytree(entry_dir, restored / entry_dir.relative_to(workshop.cache_dir))
    return runner


def evaluated(value: object) -> str:
    def replaced(match: re.Match[str]) -> str:
        return EXPRESSIONS[match[1].strip()]

    return re.sub(r"\$\{\{(.*?)\}\}", replaced, str(value))


@dataclass(frozen=True, kw_only=True)
class GithubRun:
    runner: Runner
    job: dict[str, Any]

    @property
    def steps(self) -> dict[str, dict[str, Any]]:
        return {step["name"]: step for step in self.job["steps"]}

    def run(self, step: dict[str, Any]) -> Ran:
        environment = {
            name: evaluated(value)
            for name, value in {**self.job["env"], **step.get("env", {})}.items()
        }
        code, output = self.runner.bash(evaluated(step["run"]), environment)
        return Ran(name=step["name"], exit_code=code, output=output)

    def run_all(self) -> list[Ran]:
        """Run the steps that are scripts, in order; the install step is the runner's forge."""
        scripts = [step for step in self.job["steps"] if "run" in step]
        assert scripts[0]["run"] == INSTALL
        return [self.run(step) for step in scripts[1:]]


def github_run(root: Path, workshop: TwinWorkshop) -> GithubRun:
    runner = make_runner(root, workshop)
    runner.forge("ci", "github")
    text = (runner.work_dir / ".github" / "workflows" / "forge.yml").read_text("utf-8")
    document = yaml.safe_load(text)
    assert document["defaults"] == {"run": {"shell": "bash"}}
    return GithubRun(runner=runner, job=document["jobs"]["twin"])


@pytest.fixture(scope="module")
def finished(
    tmp_path_factory: pytest.TempPathFactory,
    workshop: TwinWorkshop,
    int4_document: dict[str, Any],
) -> tuple[GithubRun, list[Ran]]:
    run = github_run(tmp_path_factory.mktemp("github"), workshop)
    return run, run.run_all()


@pytest.fixture
def fresh(tmp_path: Path, workshop: TwinWorkshop, int4_document: dict[str, Any]) -> GithubRun:
    return github_run(tmp_path, workshop)


def test_every_github_step_succeeds(finished: tuple[GithubRun, list[Ran]]) -> None:
    _, ran = finished

    assert [(step.name, step.exit_code) for step in ran if step.exit_code] == [], ran
    assert [step.name for step in ran] == [
        "Build the twin",
        "Check the repository",
        "Serve it and probe it",
        "Package it",
        "Write the summary",
    ]


def test_restored_store_spares_the_build(finished: tuple[GithubRun, list[Ran]]) -> None:
    run, _ = finished

    stages = {stage["name"]: stage["run"] for stage in run.runner.read("build.json")["stages"]}
    assert stages["compile"] is False


def test_github_uploads_what_was_made(finished: tuple[GithubRun, list[Ran]]) -> None:
    run, _ = finished
    paths = run.steps["Upload"]["with"]["path"].splitlines()

    missing = [path for path in paths if not (run.runner.work_dir / path).exists()]
    assert missing == []
    assert "sample.tar.zst" in paths


def test_summary_page_tells_of_build_check_and_probe(
    finished: tuple[GithubRun, list[Ran]],
) -> None:
    run, _ = finished
    page = (run.runner.root / "step_summary.md").read_text("utf-8")

    headings = [line for line in page.splitlines() if line.startswith("#")]
    probes = len(run.runner.read("probe.json")["probes"])
    assert headings == [
        "### ✅ Build of `sample`",
        "### ✅ Check: 0 errors, 0 warnings",
        f"### ✅ Probe: {probes} of {probes} ok",
    ]


def test_token_is_in_no_output_and_no_result(finished: tuple[GithubRun, list[Ran]]) -> None:
    run, ran = finished

    assert [step.name for step in ran if TOKEN in step.output] == []
    holders = [
        path
        for path in run.runner.root.rglob("*")
        if path.is_file() and not path.is_symlink() and TOKEN.encode() in path.read_bytes()
    ]
    assert holders == []


def test_server_is_stopped_with_its_step(finished: tuple[GithubRun, list[Ran]]) -> None:
    run, _ = finished

    pid = run.runner.read("serve.json")["pid"]
    assert not Path(f"/proc/{pid}").exists()


def test_failed_build_fails_its_step_and_is_told_in_the_summary(fresh: GithubRun) -> None:
    (fresh.runner.work_dir / "forge.yaml").write_text("model: sample\nbuild:\n  tp_size: 0\n")

    ran = fresh.run(fresh.steps["Build the twin"])
    fresh.run(fresh.steps["Write the summary"])

    assert ran.exit_code == 2
    assert '"build.tp_size is 0, wanted: whole number of at least 1"' in ran.output
    page = (fresh.runner.root / "step_summary.md").read_text("utf-8")
    assert page.startswith("### ❌ Failed, exit code 2\n")
    assert "### `probe.json`\n\nNot written" in page


def test_server_that_cannot_start_fails_its_step_with_its_own_code(fresh: GithubRun) -> None:
    ran = fresh.run(fresh.steps["Serve it and probe it"])

    error = fresh.runner.read("serve.json")["error"]
    assert ran.exit_code == error["exit_code"]
    assert json.dumps(error["what"])[1:-1] in ran.output
    assert not (fresh.runner.work_dir / "probe.json").exists()


def test_committed_lock_is_held_to(fresh: GithubRun) -> None:
    build = fresh.steps["Build the twin"]
    assert fresh.run(build).exit_code == 0
    committed = fresh.runner.work_dir / "forge.lock"
    shutil.copyfile(fresh.runner.work_dir / "model_repos" / "sample" / "forge.lock", committed)

    kept = fresh.run(build)
    lock = json.loads(committed.read_text("utf-8"))
    lock["stages"]["compile"]["key"] = "0" * 64
    committed.write_text(json.dumps(lock))
    differing = fresh.run(build)

    assert kept.exit_code == 0, kept.output
    assert differing.exit_code != 0
    assert "forge.lock" in differing.output


def test_every_gitlab_line_succeeds_in_one_shell(
    tmp_path: Path, workshop: TwinWorkshop, int4_document: dict[str, Any]
) -> None:
    runner = make_runner(tmp_path, workshop)
    runner.forge("ci", "gitlab")
    job = yaml.safe_load((runner.work_dir / ".gitlab-ci.yml").read_text("utf-8"))["forge twin"]
    assert job["script"][0] == INSTALL
    environment = {**job["variables"], "HF_TOKEN": TOKEN}

    code, output = runner.bash("\n".join([*job["script"][1:], "env"]), environment)
    after_code, _ = runner.bash("\n".join(job["after_script"]), environment)

    assert (code, after_code) == (0, 0), output
    assert TOKEN not in output
    missing = [p for p in job["artifacts"]["paths"] if not (runner.work_dir / p).exists()]
    assert missing == []
    assert not Path(f"/proc/{runner.read('serve.json')['pid']}").exists()
