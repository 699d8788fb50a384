"""Translate the settings of an engine repository to a ``ForgeConfig``."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from trtllm_forge.config.schema import BuildSection, ForgeConfig, RepositorySection
from trtllm_forge.errors import ConfigError
from trtllm_forge.migrate.tensors import migration_facts
from trtllm_forge.releases.catalogue import version_key
from trtllm_forge.triton.repository.contract import DEFAULT_KV_FRACTION
from trtllm_forge.triton.repository.names import BLS, CORE, POSTPROCESSING, PREPROCESSING

if TYPE_CHECKING:
    from collections.abc import Callable

    from trtllm_forge.migrate.source import SourceModel, SourceRepository

_YES = frozenset({"true", "1", "t", "y", "yes"})
_NO = frozenset({"false", "0", "f", "n", "no"})
_POLICIES: dict[str, Literal["guaranteed_no_evict", "max_utilization"]] = {
    "guaranteed_no_evict": "guaranteed_no_evict",
    "max_utilization": "max_utilization",
}
_DTYPES: dict[str, Literal["fp16", "bf16"]] = {"float16": "fp16", "bfloat16": "bf16"}
_MOST_INSTANCES = 256


@dataclass(frozen=True, kw_only=True)
class CarriedSettings:
    """The settings of a repository as forge's settings.

    Attributes:
        config: All settings that forge has a key for.
        kv_fraction: Share of the free memory for the KV cache.
        dtype: Type of the activations, ``float16`` and so on; empty if unknown.
        changes: Settings whose value had to change: (model, name) to (value, reason).
    """

    config: ForgeConfig
    kv_fraction: float
    dtype: str
    changes: dict[tuple[str, str], tuple[str, str]] = field(default_factory=dict)


def carry_settings(
    source: SourceRepository, *, mount_root: str, release: str, target: str
) -> CarriedSettings:
    """Return the settings of a repository for ``release``, for a new one for ``target``.

    An unset value keeps its meaning even if the default changed between the releases.

    Raises:
        ConfigError: A value is not valid for its key.
    """
    changes: dict[tuple[str, str], tuple[str, str]] = {}
    core, engine = source.core, source.engine
    read = _Reader(source)
    reuses = _unset_reuse(source, release, target, changes)
    fraction = read.number(CORE, "kv_cache_free_gpu_mem_fraction")
    max_batch_size = min(
        size for size in (engine.max_batch_size, core.max_batch_size or 1, 2048) if size
    )
    build = BuildSection(
        precision=_DTYPES.get(engine.dtype, "fp16"),
        kv_cache="fp8" if engine.kv_cache_quantization.upper() == "FP8" else None,
        tp_size=engine.tp_size,
        pp_size=engine.pp_size,
        max_batch_size=max_batch_size,
        max_num_tokens=engine.max_num_tokens or read.count(CORE, "max_num_tokens"),
        max_seq_len=engine.max_seq_len,
    )
    front = source.models.get(PREPROCESSING, core)
    repository = RepositorySection(
        tokenizer_dir=read.text(PREPROCESSING, "tokenizer_dir"),
        add_special_tokens=read.flag(PREPROCESSING, "add_special_tokens", default=True),
        skip_special_tokens=read.flag(POSTPROCESSING, "skip_special_tokens", default=True),
        decoupled=core.decoupled,
        kv_cache_free_gpu_mem_fraction=fraction,
        max_tokens_in_paged_kv_cache=read.count(CORE, "max_tokens_in_paged_kv_cache"),
        batch_scheduler_policy=_policy(source, changes),
        enable_kv_cache_reuse=read.flag(CORE, "enable_kv_cache_reuse", default=reuses),
        enable_chunked_context=read.flag(CORE, "enable_chunked_context", default=False),
        exclude_input_in_output=read.flag(CORE, "exclude_input_in_output", default=False),
        max_queue_size=core.max_queue_size,
        max_queue_delay_microseconds=front.max_queue_delay_microseconds,
        preprocessing_instances=_instances(source, PREPROCESSING, changes),
        postprocessing_instances=_instances(source, POSTPROCESSING, changes),
        bls_instances=_instances(source, BLS, changes),
        accumulate_tokens=read.flag(BLS, "accumulate_tokens", default=False),
        mount_root=mount_root,
    )
    return CarriedSettings(
        config=ForgeConfig(build=build, repository=repository),
        kv_fraction=DEFAULT_KV_FRACTION if fraction is None else fraction,
        dtype=engine.dtype,
        changes=changes,
    )


class _Reader:
    """Converts parameters, which are all strings, to typed values."""

    def __init__(self, source: SourceRepository) -> None:
        self._source = source

    def text(self, model: str, name: str) -> str | None:
        return self._source.parameter(model, name)

    def flag(self, model: str, name: str, *, default: bool) -> bool:
        value = self.text(model, name)
        if value is None:
            return default
        if value.lower() in _YES | _NO:
            return value.lower() in _YES
        raise self._mistake(model, name, value, "it must be true or false")

    def count(self, model: str, name: str) -> int | None:
        why = "it must be a whole number, 1 or more"
        found: int | None = self._parse(model, name, int, lambda count: count >= 1, why)
        return found

    def number(self, model: str, name: str) -> float | None:
        why = "it must be above 0 and at most 1"
        found: float | None = self._parse(model, name, float, lambda share: 0 < share <= 1, why)
        return found

    def _parse(
        self,
        model: str,
        name: str,
        kind: Callable[[str], Any],
        is_right: Callable[[Any], bool],
        why: str,
    ) -> Any:
        value = self.text(model, name)
        if value is None:
            return None
        try:
            parsed = kind(value)
        except ValueError as error:
            raise self._mistake(model, name, value, why) from error
        if not is_right(parsed):
            raise self._mistake(model, name, value, why)
        return parsed

    def _mistake(self, model: str, name: str, value: str, why: str) -> ConfigError:
        what = f"{self._source.models[model].path} has {name} {value!r}"
        return ConfigError(what, why=why)


def _policy(
    source: SourceRepository, changes: dict[tuple[str, str], tuple[str, str]]
) -> Literal["guaranteed_no_evict", "max_utilization"]:
    stated = source.parameter(CORE, "batch_scheduler_policy")
    policy = _POLICIES.get(stated or "guaranteed_no_evict")
    if policy is None:
        reason = "the backend falls back to it for other policies"
        changes[CORE, "batch_scheduler_policy"] = ("guaranteed_no_evict", reason)
        return "guaranteed_no_evict"
    return policy


def _instances(
    source: SourceRepository, name: str, changes: dict[tuple[str, str], tuple[str, str]]
) -> int:
    model: SourceModel | None = source.models.get(name)
    count = (model.instances if model else 0) or 1
    if name == POSTPROCESSING and source.core.decoupled and count > 1:
        reason = "all chunks of a stream must reach the same instance"
        changes[name, "instances"] = ("1", reason)
        return 1
    if count > _MOST_INSTANCES:
        changes[name, "instances"] = (str(_MOST_INSTANCES), "it is forge's limit")
    return min(count, _MOST_INSTANCES)


def _unset_reuse(
    source: SourceRepository,
    release: str,
    target: str,
    changes: dict[tuple[str, str], tuple[str, str]],
) -> bool:
    """Return the old default of ``enable_kv_cache_reuse``; record it if the default changed."""
    name = "enable_kv_cache_reuse"
    fact = migration_facts()["defaults"][name]
    since = fact["since"]
    before, after = (
        fact["after" if version_key(version) >= version_key(since) else "before"]
        for version in (release, target)
    )
    if before != after and source.parameter(CORE, name) is None:
        reason = f"the default is {before} before {since} and {after} since then"
        if after == "false":
            reason = f"the default is {after} before {since} and {before} since then"
        changes[CORE, name] = (before, reason)
    return bool(before == "true")
