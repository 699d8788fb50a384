"""Which release of TensorRT-LLM a repository is for, and where that is known from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from trtllm_forge.errors import ConfigError
from trtllm_forge.triton.repository.contract import known_releases, read_contract
from trtllm_forge.triton.repository.release import recorded_release

if TYPE_CHECKING:
    from collections.abc import Iterator

    from trtllm_forge.migrate.source import SourceRepository
    from trtllm_forge.triton.repository.contract import ReleaseContract

_Names = frozenset[tuple[str, str, str]]


@dataclass(frozen=True, kw_only=True)
class SourceRelease:
    """The release, ``0.16`` or ``1.2.1``, and where it is known from, in words."""

    version: str
    origin: str


def find_source_release(source: SourceRepository, stated: str | None = None) -> SourceRelease:
    """Return what the user, the manifest, the engine or else the tensors say.

    Raises:
        ConfigError: The models have none of the tensors that any release's have.
    """
    if stated:
        return SourceRelease(version=stated, origin="as it was said")
    recipe = source.manifest.recipe if source.manifest else {}
    recorded = recorded_release(recipe=recipe, engines=[source.engine.version])
    if recorded is not None:
        return SourceRelease(version=recorded.version, origin=f"by its {recorded.source}")
    found = _names_of_source(source)
    # Of releases that are equally close the newest, which has the fewest surprises.
    distances = {
        release: len(found ^ _names_of_contract(read_contract(release), source))
        for release in known_releases()
    }
    release = min(reversed(distances), key=lambda name: distances[name])
    if distances[release] >= len(found):
        what = f"{source.folder} has the tensors of no release of TensorRT-LLM that forge knows"
        why = f"it knows {', '.join(distances)}"
        raise ConfigError(what, why=why, hint=f"--from-version {release}")
    origin = "by its tensors" if not distances[release] else "by its tensors, as the closest"
    return SourceRelease(version=release, origin=origin)


def _names_of_source(source: SourceRepository) -> _Names:
    def names() -> Iterator[tuple[str, str, str]]:
        for model in source.models.values():
            yield from ((model.name, "input", tensor.name) for tensor in model.inputs)
            yield from ((model.name, "output", tensor.name) for tensor in model.outputs)

    return frozenset(names())


def _names_of_contract(contract: ReleaseContract, source: SourceRepository) -> _Names:
    def names() -> Iterator[tuple[str, str, str]]:
        for name, model in contract.models.items():
            if name in source.models:
                yield from ((name, "input", tensor.name) for tensor in model.inputs)
                yield from ((name, "output", tensor.name) for tensor in model.outputs)

    return frozenset(names())
