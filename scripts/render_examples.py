"""Writes the examples in model_repos/examples: small repositories without engines or tokenizers.

The newest release, the twin and llmapi have a complete repository. Older releases differ from the
newest only in what their ``config.pbtxt`` files declare, so only those are kept.

``--check`` writes nothing and fails when an example is not what would be written.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from trtllm_forge.build.stages.render import RenderStage
from trtllm_forge.checkpoint.architectures import find_architecture
from trtllm_forge.config.schema import ForgeConfig, RepositorySection
from trtllm_forge.config.settings import read_settings
from trtllm_forge.machine.gpu import GpuReport
from trtllm_forge.machine.survey import Machine
from trtllm_forge.reporter import SilentReporter
from trtllm_forge.runtimes.choice import choose_runtime
from trtllm_forge.triton.repository.contract import DEFAULT_KV_FRACTION

if TYPE_CHECKING:
    from trtllm_forge.runtimes import RuntimeName

EXAMPLES_DIR = Path(__file__).resolve().parent.parent / "model_repos" / "examples"

COMPLETE_RELEASE = "1.2.1"
"""The release whose examples are complete."""

EXAMPLES: dict[str, tuple[RuntimeName, str, str]] = {
    "sample-trtllm-0.16": ("trtllm", "0.16.0", "GPTBigCodeForCausalLM"),
    "sample-trtllm-0.18": ("trtllm", "0.18.2", "GPTBigCodeForCausalLM"),
    "sample-trtllm-1.0": ("trtllm", "1.0.0", "GPTBigCodeForCausalLM"),
    "sample-trtllm-1.2": ("trtllm", "1.2.1", "GPTBigCodeForCausalLM"),
    "sample-openvino-1.2": ("openvino", "1.2.1", "GPTBigCodeForCausalLM"),
    "llama-llmapi-1.2": ("llmapi", "1.2.1", "LlamaForCausalLM"),
}
"""Runtime, release and architecture of each example."""


def main(arguments: list[str]) -> int:
    """Write the examples, or with ``--check`` compare them; return the exit code."""
    with tempfile.TemporaryDirectory() as folder:
        for name in EXAMPLES:
            render_example(name, Path(folder) / name)
            if not is_complete(name):
                keep_configs(Path(folder) / name)
        wanted, found = _tree(Path(folder)), _tree(EXAMPLES_DIR)
        stale = sorted(n for n in {*wanted, *found} if wanted.get(n) != found.get(n))
        if arguments == ["--check"]:
            for name in stale:
                print(
                    f"model_repos/examples/{name} is not what render writes: "
                    "python scripts/render_examples.py",
                    file=sys.stderr,
                )
            return 1 if stale else 0
        if stale:
            shutil.rmtree(EXAMPLES_DIR, ignore_errors=True)
            shutil.copytree(folder, EXAMPLES_DIR)
    for name in stale:
        print(f"wrote model_repos/examples/{name}")
    return 0


def render_example(name: str, target_dir: Path) -> None:
    """Render the complete repository of an example into ``target_dir``, which is made."""
    runtime, version, architecture = EXAMPLES[name]
    model = name.partition("-")[0]
    config = ForgeConfig(
        model=model,
        runtime=runtime,
        executor="local",
        trtllm_version=version,
        repository=RepositorySection(tokenizer_dir=f"/models/{model}/tokenizer"),
    )
    # What is rendered depends on no machine; this one has nothing.
    machine = Machine(
        gpus=GpuReport(gpus=()), toolchain=None, docker=None, free_memory_bytes=0, cpu_count=1
    )
    known = find_architecture(architecture, model=model)
    choice = choose_runtime(config, known, machine, read_settings())
    stage = RenderStage(
        trtllm_version=choice.release.contract,
        max_batch_size=config.build.max_batch_size,
        repository=config.repository,
        engine_model=choice.runtime.engine_model(config, DEFAULT_KV_FRACTION),
    )
    target_dir.mkdir(parents=True)
    stage.run(target_dir, {}, SilentReporter())


def is_complete(name: str) -> bool:
    """Return whether an example has all files of its repository."""
    return EXAMPLES[name][1] == COMPLETE_RELEASE


def keep_configs(repository_dir: Path) -> None:
    """Remove all files of a repository but its ``config.pbtxt`` files."""
    for version_dir in list(repository_dir.glob("*/1")):
        shutil.rmtree(version_dir)


def _tree(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
