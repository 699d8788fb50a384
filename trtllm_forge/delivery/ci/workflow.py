"""A model's CI run as data: its variables, its files and its shell steps.

``github`` and ``gitlab`` put the same steps into their own documents::

    install   forge, from FORGE_INSTALL; torch's CPU build from TORCH_INDEX if that is set
    build     the repository; must match forge.lock if that is committed
    check     the repository, with SARIF
    probe     the repository, served by a real Triton
    package   one file to deploy
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from trtllm_forge import __version__
from trtllm_forge.checkpoint.presets import SAMPLE_NAME, resolve_model
from trtllm_forge.config.load import load_config
from trtllm_forge.config.settings import DEFAULT_CONFIG_NAME
from trtllm_forge.errors import ConfigError
from trtllm_forge.files.resources import data_template
from trtllm_forge.pipeline.lock import LOCK_NAME

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from trtllm_forge.config.load import LoadedConfig
    from trtllm_forge.config.schema import ForgeConfig

PYTHON_VERSION = "3.11"
STORE_DIR = "forge-ci/store"
STATE_DIR = "forge-ci/state"
VENV_DIR = "forge-ci/venv"
SARIF_NAME = "forge.sarif"
TWIN_TIMEOUT_MINUTES = 60
GPU_TIMEOUT_MINUTES = 360

# The twin's precision for precisions that only the engine has: the nearest in size.
_TWIN_PRECISIONS = {
    "bf16": "fp16",
    "int4_awq": "int4",
    "int4_gptq": "int4",
    "w4a8_awq": "int4",
    "nvfp4": "int4",
    "int8_sq": "int8",
    "fp8": "int8",
}

_INSTALL_TWIN = """\
# TORCH_INDEX: an index with CPU builds of torch; PyPI's own build brings CUDA's libraries.
python -m pip install ${TORCH_INDEX:+--extra-index-url "$TORCH_INDEX"} "$FORGE_INSTALL"
"""

_INSTALL_GPU = f"""\
python3 -m venv {VENV_DIR}
{VENV_DIR}/bin/python -m pip install "$FORGE_INSTALL_GPU"
"""

_BUILD_TWIN = """\
# If forge.lock is committed, the build must match it.
locked=()
if [ -f {lock} ]; then locked=(--locked); fi
{command} "${{locked[@]}}" --json | tee build.json
"""

_CHECK = f"""\
forge check "$REPOSITORY" --json --sarif {SARIF_NAME} | tee check.json
"""

_PROBE = """\
forge serve "$REPOSITORY" --json > serve.json &
server=$!
trap 'kill "$server" 2>/dev/null || true; wait "$server" || true' EXIT
until grep -qs '"ready_s"' serve.json; do
  if ! kill -0 "$server" 2>/dev/null; then
    cat serve.json >&2
    wait "$server"
    exit 7
  fi
  sleep 0.2
done
forge probe --json | tee probe.json
"""

_PACKAGE = """\
forge package "$REPOSITORY" --output "$PACKAGE"
"""


@dataclass(frozen=True, kw_only=True)
class Step:
    """One shell script of a job, run by bash with ``-eo pipefail``.

    Attributes:
        key: Its id.
        name: Its title.
        script: Its lines, including comments.
        takes_token: Whether it gets the Hub's token.
    """

    key: str
    name: str
    script: str
    takes_token: bool = False


@dataclass(frozen=True, kw_only=True)
class Job:
    """The work of one runner.

    Attributes:
        repository: The model repository, relative to the workspace.
        package: The package made from it.
        install: What pip installs unless a variable says otherwise.
        steps: The scripts, in order.
        timeout_minutes: The CI system's time limit for the job.
        documents: JSON documents for the summary.
        extra_results: Uploads besides the package, its lock and manifest and the documents.
    """

    repository: str
    package: str
    install: str
    steps: tuple[Step, ...]
    timeout_minutes: int
    documents: tuple[str, ...]
    extra_results: tuple[str, ...] = ()

    @property
    def results(self) -> tuple[str, ...]:
        """Return the files to upload, as far as the job created them."""
        return (
            self.package,
            f"{self.repository}/{LOCK_NAME}",
            f"{self.repository}/forge.manifest.json",
            SARIF_NAME,
            *self.documents,
            *self.extra_results,
        )


@dataclass(frozen=True, kw_only=True)
class Workflow:
    """The jobs of one model.

    Attributes:
        name: Name of the model repository.
        command: The command that writes this workflow.
        version: Forge's version, part of the cache's key.
        twin: The job that needs no GPU.
        gpu: The job for a runner with a GPU, if requested.
        key_files: Files that determine the cache's key.
    """

    name: str
    command: str
    twin: Job
    gpu: Job | None
    key_files: tuple[str, ...]
    version: str = field(default=__version__)


def plan_workflow(
    *,
    system: str,
    model: str | None,
    config_path: Path | None,
    with_gpu: bool,
    extra: tuple[str, ...] = (),
) -> Workflow:
    """Return the workflow of a model; environment variables of this process are ignored.

    Args:
        system: The command's name of the CI system, for hints.
        model: MODEL of the command line, or None for the one in ``forge.yaml``.
        config_path: The configuration to build from, or None for ``./forge.yaml``.
        with_gpu: Whether to add the job for a GPU runner.
        extra: Further options of the command, for the comment in the file.

    Raises:
        ConfigError: No model is given, the configuration is invalid, or the twin does not
            support it.
    """
    loaded = load_config(flags={"model": model}, config_path=config_path, environment={})
    config = loaded.config
    config_name = str(config_path or DEFAULT_CONFIG_NAME)
    if config.model is None:
        raise _no_model(system, config_path, has_config=Path(config_name).exists())
    name = config.name or resolve_model(config.model, revision=config.checkpoint.revision).name
    build = ["forge", "build"]
    if model is not None:
        build.append(model)
    if config_path is not None:
        build += ["--config", config_name]
    twin_flags = _twin_flags(loaded)
    words = ["forge", "ci", system, *build[2:], *(["--gpu"] if with_gpu else []), *extra]
    return Workflow(
        name=name,
        command=shlex.join(words),
        twin=_twin_job(name, [*build, "--runtime", "openvino", *twin_flags]),
        gpu=_gpu_job(name, [*build, "--runtime", _gpu_runtime(config)]) if with_gpu else None,
        key_files=(config_name, LOCK_NAME),
    )


def workflow_text(
    template: str,
    workflow: Workflow,
    filters: Mapping[str, Callable[..., object]],
    **context: object,
) -> str:
    """Return a workflow in the format of a CI system.

    Args:
        template: Name of the template. Its delimiters are ``[[`` and ``[%``, because GitHub's
            expressions use braces.
        workflow: Its jobs and steps.
        filters: Filters of the template in addition to ``yaml``, ``yaml_block`` and ``comment``.
        context: Further names in the template.
    """
    return data_template(
        f"ci/{template}",
        autoescape=False,
        filters={"yaml": _yaml, "yaml_block": _yaml_block, "comment": _comment, **filters},
        variable_start_string="[[",
        variable_end_string="]]",
        block_start_string="[%",
        block_end_string="%]",
        comment_start_string="[#",
        comment_end_string="#]",
    ).render(
        workflow=workflow,
        python_version=PYTHON_VERSION,
        store_dir=STORE_DIR,
        state_dir=STATE_DIR,
        venv_dir=VENV_DIR,
        sarif_name=SARIF_NAME,
        **context,
    )


def _yaml(text: str) -> str:
    """Return text as a YAML value on one line, quoted if necessary."""
    return _dump(text, style=None if text.splitlines() == [text] else '"')


def _yaml_block(text: str) -> str:
    """Return a script as a YAML block, or like ``yaml`` if it is a single line."""
    is_block = "\n" in text and "\n".join(text.splitlines()) == text.removesuffix("\n")
    return _dump(text, style="|") if is_block else _yaml(text)


def _dump(text: str, *, style: str | None) -> str:
    import yaml

    value = yaml.safe_dump(text, default_style=style, allow_unicode=True, width=float("inf"))
    # YAML ends a document that is a plain value with "...".
    return str(value).removesuffix("...\n").removesuffix("\n")


def _comment(text: str) -> str:
    return "\n# ".join(text.splitlines())


def _twin_job(name: str, build: list[str]) -> Job:
    command = f'{shlex.join(build)} --output "$REPOSITORY"'
    script = _BUILD_TWIN.format(lock=LOCK_NAME, command=command)
    return Job(
        repository=f"model_repos/{name}",
        package=f"{name}.tar.zst",
        install=f"trtllm-forge[cpu]=={__version__}",
        steps=(
            Step(key="install", name="Install forge", script=_INSTALL_TWIN),
            Step(key="build", name="Build the twin", script=script, takes_token=True),
            Step(key="check", name="Check the repository", script=_CHECK),
            Step(key="probe", name="Serve it and probe it", script=_PROBE),
            Step(key="package", name="Package it", script=_PACKAGE),
        ),
        timeout_minutes=TWIN_TIMEOUT_MINUTES,
        documents=("build.json", "check.json", "probe.json"),
        extra_results=("serve.json", f"{STATE_DIR}/logs"),
    )


def _gpu_job(name: str, build: list[str]) -> Job:
    command = f'{shlex.join(build)} --yes --output "$REPOSITORY" --json | tee build.json\n'
    return Job(
        repository=f"model_repos/{name}",
        package=f"{name}-gpu.tar.zst",
        install=f"trtllm-forge=={__version__}",
        steps=(
            Step(key="install", name="Install forge", script=_INSTALL_GPU),
            Step(key="build", name="Build for the GPU", script=command, takes_token=True),
            Step(key="check", name="Check the repository", script=_CHECK),
            Step(key="package", name="Package it", script=_PACKAGE),
        ),
        timeout_minutes=GPU_TIMEOUT_MINUTES,
        documents=("build.json", "check.json"),
    )


def _gpu_runtime(config: ForgeConfig) -> str:
    return "llmapi" if config.runtime == "llmapi" else "trtllm"


def _twin_flags(loaded: LoadedConfig) -> list[str]:
    """Return the options in which the twin's build differs from the engine's.

    Raises:
        ConfigError: A setting that the twin lacks cannot be overridden by an option.
    """
    build = loaded.config.build
    _refuse_engine_options(
        loaded,
        {
            "kv_cache": build.kv_cache,
            "gemm_plugin": build.gemm_plugin,
            "lora_dir": build.lora_dir,
        },
    )
    flags = []
    if build.precision in _TWIN_PRECISIONS:
        flags.append(f"--{_TWIN_PRECISIONS[build.precision]}")
    if build.tp_size * build.pp_size != 1:
        flags += ["--tp", "1", "--pp", "1"]
    if build.speculative != "none":
        flags += ["--speculative", "none"]
    if build.gather_context_logits:
        flags.append("--no-gather-context-logits")
    return flags


def _refuse_engine_options(loaded: LoadedConfig, options: Mapping[str, object]) -> None:
    for name, value in options.items():
        if value:
            what = f"the twin does not support build.{name}, which is {value}"
            why = (
                f"only TensorRT-LLM has it ({loaded.origins[f'build.{name}']}), "
                f"and the workflow builds the twin first"
            )
            hint = f"take {name} out of forge.yaml, and set FORGE_{name.upper()} on the GPU runner"
            raise ConfigError(what, why=why, hint=hint)


def _no_model(system: str, config_path: Path | None, *, has_config: bool) -> ConfigError:
    if has_config:
        what = f"{config_path or DEFAULT_CONFIG_NAME} names no model"
        return ConfigError(what, hint=f"forge ci {system} {SAMPLE_NAME}")
    what = f"there is no {DEFAULT_CONFIG_NAME} here, and no MODEL was given"
    why = "the workflow builds the model in forge.yaml or MODEL"
    return ConfigError(what, why=why, hint=f"forge init {SAMPLE_NAME}")
