"""Migrate an engine repository to the LLM API, or to another release.

The old folder is only read. ``source`` reads it, ``settings`` translates it to forge's settings,
``render`` writes the new one with the templates of ``build``, and ``moves`` and ``tensors`` compare
the two: what was carried over, what has no counterpart, and what clients must change.
"""

from __future__ import annotations

import tempfile
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from trtllm_forge.errors import ConfigError, unwritable
from trtllm_forge.files.staging import free_name, staging
from trtllm_forge.migrate.engine_flags import engine_flag_moves
from trtllm_forge.migrate.moves import engine_moves, llmapi_moves
from trtllm_forge.migrate.release import find_source_release
from trtllm_forge.migrate.render import render_engine, render_llmapi
from trtllm_forge.migrate.report import MigrationReport
from trtllm_forge.migrate.served import find_served_model, require_flow, shell
from trtllm_forge.migrate.settings import carry_settings
from trtllm_forge.migrate.source import read_model, read_source
from trtllm_forge.migrate.steps import engine_steps, llmapi_notes, llmapi_steps, release_notes
from trtllm_forge.migrate.tensors import migration_facts, moves_between_releases, moves_to_llmapi
from trtllm_forge.releases.catalogue import read_catalogue
from trtllm_forge.triton.repository.names import CORE

if TYPE_CHECKING:
    from collections.abc import Iterator

    from trtllm_forge.config.settings import Settings
    from trtllm_forge.migrate.release import SourceRelease
    from trtllm_forge.migrate.served import ServedModel
    from trtllm_forge.migrate.settings import CarriedSettings
    from trtllm_forge.migrate.source import SourceRepository
    from trtllm_forge.releases.catalogue import Release
    from trtllm_forge.reporter import Reporter

LLMAPI = "llmapi"
_MOUNT_ROOT = "/models"


def migrate_repository(
    source_dir: Path,
    to: str,
    settings: Settings,
    reporter: Reporter,
    *,
    output_dir: Path | None = None,
    model: str | None = None,
    trtllm_version: str | None = None,
    from_version: str | None = None,
    dry_run: bool = False,
) -> MigrationReport:
    """Write a repository equivalent to ``source_dir``, and report the differences.

    Args:
        source_dir: A repository around an engine: forge's, upstream's or another one.
        to: ``llmapi``, or the TensorRT-LLM release of the new engine.
        settings: Where forge keeps its files.
        reporter: Receives notes about omitted parameters.
        output_dir: The new repository; None for one beside the old, named after ``to``.
        model: The model it serves, if the repository does not say.
        trtllm_version: The release of the LLM API; None for the newest with an image.
        from_version: The release of the old repository; None to detect it.
        dry_run: Write nothing, only report.

    Raises:
        ConfigError: The repository cannot be migrated there, or the output is in the way.
        RenderError: A ``config.pbtxt`` does not parse, or is not filled in.
        CheckpointError: The model is unknown, or its tokenizer has the wrong format.
    """
    source = read_source(source_dir)
    again = f"forge migrate {shell(source_dir)}"
    release = _target_release(to, trtllm_version, again)
    if to != LLMAPI and source.core.backend != "tensorrtllm":
        what = f"{source_dir} is not a repository around a TensorRT engine"
        why = f"its {CORE} has the backend {source.core.backend}; a twin must be built again"
        model_name = source.model_name
        hint = f"forge build {shell(model_name)} --runtime openvino" if model_name else ""
        hint += f" --trtllm-version {release.version}" if hint else ""
        raise ConfigError(what, why=why, hint=hint)
    origin = find_source_release(source, from_version)
    served = find_served_model(source, model, settings, reporter)
    require_flow(served, "llmapi" if to == LLMAPI else "engine", release, again=again)
    output_dir = output_dir or source_dir.resolve().with_name(f"{source_dir.resolve().name}-{to}")
    _require_new(source_dir, output_dir, f"{again} --to {to}")
    carried = carry_settings(
        source, mount_root=_mount_root(source), release=origin.version, target=release.version
    )
    with _work_dir(output_dir, dry_run=dry_run) as work_dir:
        migrate = _to_llmapi if to == LLMAPI else _to_release
        report = migrate(source, carried, release, origin, served, work_dir, output_dir, reporter)
        if not dry_run:
            work_dir.rename(output_dir)
    return report


def _to_llmapi(
    source: SourceRepository,
    carried: CarriedSettings,
    release: Release,
    origin: SourceRelease,
    served: ServedModel,
    work_dir: Path,
    output_dir: Path,
    reporter: Reporter,
) -> MigrationReport:
    arguments = render_llmapi(source, carried, release, work_dir, reporter)
    new = read_model(work_dir / CORE / "config.pbtxt")
    return MigrationReport(
        source_dir=source.folder,
        output_dir=output_dir,
        source_release=origin.version,
        source_release_origin=origin.origin,
        target="llmapi",
        target_release=release.version,
        model=served.model,
        architecture=served.architecture,
        settings=tuple(llmapi_moves(source, carried, arguments)),
        tensors=tuple(moves_to_llmapi(source.models, new)),
        notes=tuple(llmapi_notes(source)),
        next_steps=tuple(llmapi_steps(served, output_dir)),
    )


def _to_release(
    source: SourceRepository,
    carried: CarriedSettings,
    release: Release,
    origin: SourceRelease,
    served: ServedModel,
    work_dir: Path,
    output_dir: Path,
    reporter: Reporter,
) -> MigrationReport:
    parameters = {**source.core.parameters}
    for (model, name), (value, _) in carried.changes.items():
        if model == CORE and name in migration_facts()["defaults"]:
            parameters[name] = value
    render_engine(source, carried, release, parameters, work_dir, reporter)
    new = {path.parent.name: read_model(path) for path in work_dir.glob("*/config.pbtxt")}
    return MigrationReport(
        source_dir=source.folder,
        output_dir=output_dir,
        source_release=origin.version,
        source_release_origin=origin.origin,
        target="engine",
        target_release=release.version,
        model=served.model,
        architecture=served.architecture,
        settings=(
            *engine_moves(source, new, release.version, carried.changes),
            *engine_flag_moves(source, carried),
        ),
        tensors=tuple(moves_between_releases(source.models, new)),
        notes=tuple(release_notes(source, release)),
        next_steps=tuple(engine_steps(source, carried, served, release, output_dir)),
    )


def _target_release(to: str, trtllm_version: str | None, again: str) -> Release:
    catalogue = read_catalogue()
    if to == LLMAPI:
        newest = catalogue.newest("llmapi")
        assert newest is not None
        release = catalogue.find(trtllm_version) if trtllm_version else newest
        if "llmapi" not in release.flows:
            what = f"TensorRT-LLM {release.version} has no LLM API that Triton can serve"
            hint = f"{again} --to llmapi --trtllm-version {newest.version}"
            raise ConfigError(what, why="the first release with it is 1.0.0", hint=hint)
        return release
    if trtllm_version:
        what = f"--to {to} and --trtllm-version {trtllm_version} both name a release"
        raise ConfigError(what, hint=f"{again} --to {to}")
    if not to[:1].isdigit():
        what = f"--to {to} is neither llmapi nor a release of TensorRT-LLM"
        raise ConfigError(what, hint=f"{again} --to llmapi")
    newest = catalogue.newest("engine")
    assert newest is not None
    try:
        release = catalogue.find(to)
    except ConfigError as error:
        # The error's own hint has the flag that other commands use for a release.
        hint = f"{again} --to {newest.version}"
        raise ConfigError(error.what, why=error.why, hint=hint) from error
    if "engine" not in release.flows:
        what = f"TensorRT-LLM {release.version} cannot build engines"
        why = f"the last release that can is {newest.version}"
        raise ConfigError(what, why=why, hint=f"{again} --to llmapi")
    return release


def _mount_root(source: SourceRepository) -> str:
    """Return where the old repository is mounted, judging by the path of its engine."""
    stated = PurePosixPath(source.core.parameters.get("gpt_model_path", ""))
    if stated.is_absolute() and CORE in stated.parts:
        root = PurePosixPath(*stated.parts[: stated.parts.index(CORE)])
        return str(root)
    return _MOUNT_ROOT


def _require_new(source_dir: Path, output_dir: Path, again: str) -> None:
    beside = source_dir.resolve().with_name(f"{source_dir.resolve().name}-migrated")
    hint = f"{again} --output {shell(free_name(beside) if beside.exists() else beside)}"
    source, output = source_dir.resolve(), output_dir.resolve()
    if output.is_relative_to(source) or source.is_relative_to(output):
        what = f"the new repository {output_dir} would be inside the old one, {source_dir}"
        if source.is_relative_to(output):
            what = f"the new repository {output_dir} would overwrite the folder of the old one"
        raise ConfigError(what, why="migrate does not change the old one", hint=hint)
    hint = f"{again} --output {shell(free_name(output_dir))}"
    if output_dir.is_symlink() or output_dir.is_file():
        what = f"{output_dir} is in the way"
        raise ConfigError(what, why="it is not a folder", hint=hint)
    if output_dir.is_dir() and any(output_dir.iterdir()):
        what = f"{output_dir} is in the way: it is not empty"
        raise ConfigError(what, why="migrate does not replace anything", hint=hint)


@contextmanager
def _work_dir(output_dir: Path, *, dry_run: bool) -> Iterator[Path]:
    """Yield a folder to render in, beside the output so that one rename publishes it."""
    if dry_run:
        with tempfile.TemporaryDirectory() as folder:
            work_dir = Path(folder) / "repository"
            work_dir.mkdir()
            yield work_dir
        return
    try:
        output_dir.parent.mkdir(parents=True, exist_ok=True)
        with staging(output_dir, "migrated") as work_dir:
            work_dir.mkdir()
            yield work_dir
    except OSError as error:
        raise unwritable(output_dir, error, hint="--output ANOTHER_FOLDER") from error
