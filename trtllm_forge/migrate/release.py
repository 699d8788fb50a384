"""Find out which release of TensorRT-LLM a repository is for."""

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
    """The release, ``0.16`` or ``1.2.1``, and the origin of that information in words."""

    version: str
    origin: str


def find_source_release(source: SourceRepository, stated: str | None = None) -> SourceRelease:
    """Return the release stated by user, manifest or engine, or else found by the tensors.

    Raises:
        ConfigError: The models' tensors do not match any release.
    """
    if stated:
        return SourceRelease(version=stated, origin="as given")
    recipe = source.manifest.recipe if source.manifest else {}
    recorded = recorded_release(recipe=recipe, engines=[source.engine.version])
    if recorded is not None:
        return SourceRelease(version=recorded.version, origin=f"by its {recorded.source}")
    found = _names_of_source(source)
    # Among equally close releases the newest, which is the safest guess.
    distances = {
        release: len(found ^ _names_of_contract(read_contract(release), source))
        for release in known_releases()
    }
    release = min(reversed(distances), key=lambda name: distances[name])
    if distances[release] >= len(found):
        what = f"the tensors of {source.folder} match no release of TensorRT-LLM that forge knows"
        why = f"forge knows {', '.join(distances)}"
        raise ConfigError(what, why=why, hint=f"--from-version {release}")
    origin = "by its tensors" if not distances[release] else "the closest by its tensors"
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
