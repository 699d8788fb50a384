"""A build in three stages, as the twin's, small enough to be killed and run again many times.

``python -m tests.servers.staged_build CACHE OUTPUT [--precision P]`` prints ``building`` once it
starts, and at its end a line of JSON: which stages ran, and how many bytes it read since.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from tests.small_stage import SmallStage
from trtllm_forge.build.stages.render import link_tree
from trtllm_forge.delivery.manifest import Manifest, SourceCheckpoint
from trtllm_forge.errors import BuildError
from trtllm_forge.machine.process.command import Command, run_command
from trtllm_forge.pipeline.lock import LOCK_NAME
from trtllm_forge.pipeline.plan import make_plan
from trtllm_forge.pipeline.publish import is_published, publish_entry, remove_leftovers
from trtllm_forge.pipeline.run import lock_of, run_plan
from trtllm_forge.pipeline.store import Store
from trtllm_forge.reporter import SilentReporter
from trtllm_forge.triton.repository.names import MANIFEST_NAME

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from trtllm_forge.pipeline.run import StageResult
    from trtllm_forge.reporter import Reporter

ENGINE = "engine/rank0.engine"
_CHUNKS = 48
_CHUNK_BYTES = 1 << 16

# A tool that takes its time, as a process of its own.
_EXPORT = """
import sys
with open(sys.argv[1] + "/rank0.engine", "wb") as stream:
    for number in range(int(sys.argv[3])):
        stream.write(bytes([number % 251]) + sys.argv[2].encode().ljust(int(sys.argv[4]) - 1, b"."))
        stream.flush()
"""


class ExportStage(SmallStage):
    """Has a child process write the engine, a piece at a time."""

    def run(
        self,
        work_dir: Path,
        inputs: Mapping[str, Path],  # noqa: ARG002 - the protocol's
        reporter: Reporter,
    ) -> None:
        precision = str(self.parameters["precision"])
        tool = (sys.executable, "-S", "-c", _EXPORT)
        argv = (*tool, str(work_dir), precision, str(_CHUNKS), str(_CHUNK_BYTES))
        run_command(
            Command(argv=argv, inner_argv=argv),
            source="compile",
            error=BuildError,
            log_path=work_dir.with_suffix(".log"),
            reporter=reporter,
        )
        (work_dir / "engine.json").write_text(json.dumps({"precision": precision}))


class LinkStage(SmallStage):
    """Links the engine into the repository, as rendering does."""

    def run(self, work_dir: Path, inputs: Mapping[str, Path], reporter: Reporter) -> None:
        super().run(work_dir, inputs, reporter)
        link_tree(inputs["compile"], work_dir / "engine")


def stages_of(precision: str) -> tuple[SmallStage, ...]:
    """Return the stages of a build."""
    parameters = {"precision": precision}
    config = f"name: {precision}\n".encode()
    return (
        SmallStage(name="download", files={"config.json": b"{}", "weights": b"w" * 300_000}),
        ExportStage(parameters=parameters),
        LinkStage(name="render", files={"ensemble/config.pbtxt": config}),
    )


def files_of(precision: str) -> dict[str, bytes]:
    """Return what a finished build of a precision publishes."""
    pieces = (
        bytes([number % 251]) + precision.encode().ljust(_CHUNK_BYTES - 1, b".")
        for number in range(_CHUNKS)
    )
    return {
        ENGINE: b"".join(pieces),
        "engine/engine.json": json.dumps({"precision": precision}).encode(),
        "ensemble/config.pbtxt": f"name: {precision}\n".encode(),
    }


def documents_of(results: Sequence[StageResult]) -> dict[str, str]:
    """Return the lock and the manifest of a build."""
    manifest = Manifest(
        runtime="openvino",
        checkpoint=SourceCheckpoint(
            repo_id="small", revision="1", origin="local", licence=None, files=()
        ),
        recipe={},
        versions={},
        gpu_architecture=None,
        image=None,
        stages={result.planned.stage.name: result.planned.key for result in results},
        checks=(),
        files=results[-1].entry.outputs,
        varying=(),
    )
    return {LOCK_NAME: lock_of(results).to_text(), MANIFEST_NAME: manifest.to_text()}


def read_bytes() -> int:
    """Return how many bytes this process has read so far, from files of any kind."""
    lines = Path("/proc/self/io").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("rchar:"))


def main() -> None:
    """Build and publish, as ``forge build`` does."""
    parser = argparse.ArgumentParser()
    parser.add_argument("cache_dir", type=Path)
    parser.add_argument("output_dir", type=Path)
    parser.add_argument("--precision", default="int4")
    arguments = parser.parse_args()
    print("building", flush=True)
    before = read_bytes()
    store = Store(arguments.cache_dir)
    reporter = SilentReporter()
    plan = make_plan(stages_of(arguments.precision), store)
    with store.using({planned.stage.name: planned.key for planned in plan}):
        results = run_plan(plan, store, reporter)
        documents = documents_of(results)
        if is_published(results[-1].entry, arguments.output_dir, documents):
            remove_leftovers(arguments.output_dir)
        else:
            publish_entry(results[-1].entry, arguments.output_dir, documents)
        store.remember_repository(arguments.output_dir)
    ran = [result.planned.stage.name for result in results if result.ran]
    print(json.dumps({"ran": ran, "read_bytes": read_bytes() - before}), flush=True)


if __name__ == "__main__":
    main()
