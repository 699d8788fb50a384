"""Publish a finished artifact to the user's folder in one atomic step."""

from __future__ import annotations

import errno
import shlex
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from trtllm_forge.errors import BuildError, ConfigError, ForgeError, unwritable
from trtllm_forge.files.added import added_to
from trtllm_forge.files.digest import sha256_file
from trtllm_forge.files.staging import free_name, replace_folder, staging
from trtllm_forge.pipeline.lock import LOCK_NAME, read_lock
from trtllm_forge.pipeline.place import LINK_ABOVE_BYTES, is_placed, place_file

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from trtllm_forge.pipeline.store import Entry, OutputFile
    from trtllm_forge.reporter import Reporter

_SHOWN_CHANGES = 8
_STAGED = "staged"
_HINT = "--output ANOTHER_FOLDER"


def is_published(entry: Entry, output_dir: Path, documents: Mapping[str, str]) -> bool:
    """Return whether ``output_dir`` holds exactly the entry and the documents.

    Small files are compared by digest. Large ones share their bytes with the store, which can be
    told without reading them; one that was touched is also compared by digest. Extra files at
    the top level are ignored, but not extra folders or files in folders: Triton would load those.
    """
    try:
        return (
            all(
                (output_dir / name).read_text(encoding="utf-8") == text
                for name, text in documents.items()
            )
            and all(
                is_placed(entry.files_dir / output.path, output_dir / output.path, output)
                for output in entry.outputs
            )
            and not any("/" in name for name in added_to(output_dir, _paths(entry.outputs)))
        )
    except (OSError, UnicodeDecodeError):
        return False


def require_own_folder(output_dir: Path) -> None:
    """Check that ``output_dir`` does not exist, is empty, or is a repository that forge built.

    Raises:
        ConfigError: Publishing would destroy something else, or the folder cannot be read.
    """
    try:
        obstacle, why = _obstacle(output_dir)
    except OSError as error:
        raise _cannot_write(output_dir, error) from error
    if obstacle:
        what = f"{output_dir} is in the way: {obstacle}"
        free = free_name(output_dir.resolve() if output_dir.name in ("", "..") else output_dir)
        raise ConfigError(what, why=why, hint=shlex.join(["--output", str(free)]))


def warn_of_edits(
    output_dir: Path, stage: str, reporter: Reporter, *, documents: Mapping[str, str]
) -> None:
    """Warn about edited and added files in a published folder that is about to be replaced.

    The folder's lock lists what forge put there, as the outputs of ``stage``. Large files are
    compared by size and time: reading them would take as long as a build.
    """
    lock = read_lock(output_dir)
    locked = lock.stages.get(stage) if lock else None
    if locked is None:
        return
    published_ns = (output_dir / LOCK_NAME).stat().st_mtime_ns
    outputs = {output.path: output for output in locked.outputs}
    changes = [
        f"{name} was {change}"
        for name, output in sorted(outputs.items())
        if name not in documents and (change := _change(output_dir / name, output, published_ns))
    ]
    changes += [f"{name} was added" for name in added_to(output_dir, {*outputs, *documents})]
    if changes:
        rest = len(changes) - _SHOWN_CHANGES
        shown = [*changes[:_SHOWN_CHANGES], *([f"and {rest} more"] if rest > 0 else [])]
        reporter.warning(f"replacing {output_dir} discards these changes: {', '.join(shown)}")


def publish_entry(entry: Entry, output_dir: Path, documents: Mapping[str, str]) -> None:
    """Publish the entry and the documents to ``output_dir``, replacing what forge built there.

    Large files are not stored twice (see ``pipeline.place``); small ones are copies, so that
    they can be edited without touching the store. The documents, text by name, are written last:
    any file newer than they are was touched afterwards.

    Raises:
        ConfigError: The folder was not built by forge, or cannot be written.
        BuildError: No space is left.
    """
    require_own_folder(output_dir)
    try:
        output_dir.parent.mkdir(parents=True, exist_ok=True)
        with staging(output_dir, _STAGED) as staged_dir:
            for output in entry.outputs:
                target = staged_dir / output.path
                target.parent.mkdir(parents=True, exist_ok=True)
                place_file(entry.files_dir / output.path, target, output.size_bytes)
            for name, text in documents.items():
                (staged_dir / name).write_text(text, encoding="utf-8")
            replace_folder(staged_dir, output_dir)
    except OSError as error:
        raise _cannot_write(output_dir, error) from error


def _paths(outputs: Iterable[OutputFile]) -> set[str]:
    return {output.path for output in outputs}


def _change(path: Path, output: OutputFile, published_ns: int) -> str:
    """Return how a file was changed, or nothing if it was not or that is unknown."""
    try:
        state = path.stat()
        if state.st_size != output.size_bytes:
            return "edited"
        if output.size_bytes > LINK_ABOVE_BYTES:
            return "edited or copied" if state.st_mtime_ns > published_ns else ""
        return "edited" if sha256_file(path) != output.sha256 else ""
    except OSError:
        # It is gone, or only its owner may read it.
        return ""


def _obstacle(output_dir: Path) -> tuple[str, str]:
    """Return what prevents replacing a folder and why; both are empty if nothing does."""
    if output_dir.is_symlink():
        return "it is a symbolic link", f"it points to {output_dir.readlink()}"
    if output_dir.exists() and not output_dir.is_dir():
        return "it is not a folder", ""
    if Path.cwd().is_relative_to(output_dir.resolve()):
        return "the working folder is inside it", "replacing it would leave this shell nowhere"
    if not output_dir.is_dir() or (output_dir / LOCK_NAME).exists():
        return "", ""
    if any(output_dir.iterdir()):
        return "it was not built by forge", f"it is not empty and has no {LOCK_NAME}"
    return "", ""


def _cannot_write(output_dir: Path, error: OSError) -> ForgeError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        what = f"no space left on the disk that holds {output_dir.parent}"
        why = "the artifacts are in the store; the folder was left unchanged"
        return BuildError(what, why=why, hint=_HINT)
    return unwritable(output_dir, error, hint=_HINT)


def remove_leftovers(output_dir: Path) -> None:
    """Remove what killed builds left beside a published folder."""
    with suppress(OSError), staging(output_dir, _STAGED):
        pass
