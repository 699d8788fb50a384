"""FL701 to FL719: instances, queues and shared memory."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from trtllm_forge.check.finding import Problem
from trtllm_forge.check.model import TRUE_WORDS
from trtllm_forge.check.registry import rule
from trtllm_forge.text.quantities import GIB, show_size
from trtllm_forge.triton.launch.shared_memory import SHM_BYTES_PER_INSTANCE

if TYPE_CHECKING:
    from collections.abc import Iterable

    from trtllm_forge.check.view import RepositoryView

_LONG_DELAY_US = 100_000


@rule("FL701", "engine-instances", "warning")
def engine_instances(view: RepositoryView) -> Iterable[Problem]:
    """An engine is loaded once per GPU.

    Why: Every instance loads the engine again; in-flight batching lets requests share one.
    Fix: Set `count: 1`; for several GPUs list them in `gpu_device_ids`.
    Upstream: https://github.com/triton-inference-server/tensorrtllm_backend/issues/625
    """
    for model in view.of_role("tensorrt_llm", "llmapi"):
        ids = model.setting("gpu_device_ids")
        groups = len(ids.value.split(";")) if ids is not None else 1
        if model.instances > max(1, groups):
            group = model.instance_groups[0]
            scalar = group.scalar("count")
            yield Problem(
                model=model.folder,
                path=model.path,
                line=(scalar or group).line,
                message=f"{model.instances} instances load the engine as many times on "
                f"{groups} group{'s' if groups > 1 else ''} of GPUs",
                hint="count: 1",
            )


@rule("FL702", "stream-order", "warning")
def stream_order(view: RepositoryView) -> Iterable[Problem]:
    """The chunks of a stream stay in order.

    Why: Chunks of one stream go to whichever instance is free and may overtake each other.
    Fix: Set `count: 1`. For upstream's postprocessing, which keeps no state between chunks,
        this is only a note.
    """
    if not any(model.is_decoupled for model in view.of_role("tensorrt_llm")):
        return
    for model in view.of_role("postprocessing"):
        if model.instances > 1:
            group = model.instance_groups[0]
            yield Problem(
                model=model.folder,
                path=model.path,
                line=(group.scalar("count") or group).line,
                message=f"{model.instances} instances take the chunks of one stream",
                hint="count: 1",
                severity=None if model.is_forges else "info",
            )


@rule("FL703", "bls-serialises", "info")
def bls_serialises(view: RepositoryView) -> Iterable[Problem]:
    """A BLS model has an instance for each concurrent request.

    Why: Upstream's model takes the next request only when the last one is done.
    Fix: Set `bls_instance_count` to the concurrency you want.
    Upstream: https://github.com/triton-inference-server/tensorrtllm_backend/issues/254
    """
    for model in view.of_role("tensorrt_llm_bls"):
        if model.instances == 1 and not model.is_forges:
            group = model.instance_groups[0] if model.instance_groups else None
            yield Problem(
                model=model.folder,
                path=model.path,
                line=None if group is None else (group.scalar("count") or group).line,
                message="one instance takes one request at a time",
                hint="the number of requests at once, as bls_instance_count",
            )


@rule("FL704", "cancelled-queue", "info")
def cancelled_queue(view: RepositoryView) -> Iterable[Problem]:
    """A cancelled stream reaches postprocessing.

    Why: Dynamic batching drops the chunks of a cancelled request, so the engine is not told and
        continues.
    Fix: Remove `dynamic_batching` from postprocessing, as forge does.
    """
    if not any(model.is_decoupled for model in view.of_role("tensorrt_llm")):
        return
    for model in view.of_role("postprocessing"):
        batching = model.config.all("dynamic_batching")
        if batching:
            yield Problem(
                model=model.folder,
                path=model.path,
                line=batching[0].line,
                message="dynamic_batching drops the responses of a cancelled request",
            )


@rule("FL705", "instance-kind", "warning")
def instance_kind(view: RepositoryView) -> Iterable[Problem]:
    """Instances have the kind that their model needs.

    Why: KIND_GPU makes an instance on every GPU, although these models choose their GPUs
        themselves.
    Fix: Set `kind: KIND_CPU`.
    """
    for model in view.of_role(
        "preprocessing", "postprocessing", "tensorrt_llm", "tensorrt_llm_bls", "llmapi"
    ):
        for group in model.instance_groups:
            kind = group.scalar("kind")
            if kind is not None and kind.value in ("KIND_GPU", "KIND_AUTO"):
                yield Problem(
                    model=model.folder,
                    path=model.path,
                    line=kind.line,
                    message=f"{kind.value} makes an instance on every GPU of the machine",
                    hint="kind: KIND_CPU",
                )


@rule("FL706", "shared-memory", "error")
def shared_memory(view: RepositoryView) -> Iterable[Problem]:
    """The shared memory is large enough for every Python instance.

    Why: Docker gives 64 MiB, enough for one instance; the second one does not start.
    Fix: Start the container with the size that the message names.
    Upstream: https://github.com/triton-inference-server/tensorrtllm_backend/issues/562,
        https://github.com/triton-inference-server/server/issues/6195,
        https://github.com/triton-inference-server/server/issues/4145
    """
    given = view.options.shm_bytes
    if given is None:
        return
    python = [model for model in view.models if model.backend == "python"]
    count = sum(model.instances for model in python)
    needed = count * SHM_BYTES_PER_INSTANCE
    if given < needed:
        yield Problem(
            message=f"--shm-size is {show_size(given)}, but {count} Python instances need "
            f"{show_size(needed)}",
            hint=f"--shm-size={math.ceil(needed * 2 / GIB)}g",
        )


@rule("FL707", "queue-delay", "warning")
def queue_delay(view: RepositoryView) -> Iterable[Problem]:
    """The queue delay is short.

    Why: The delay is added to the time to first token of every request; its unit is
        microseconds.
    Fix: Write microseconds: 1000 is one millisecond.
    """
    for model in view.models:
        batching = model.config.message("dynamic_batching")
        scalar = None if batching is None else batching.scalar("max_queue_delay_microseconds")
        if scalar is not None and scalar.number is not None and scalar.number > _LONG_DELAY_US:
            yield Problem(
                model=model.folder,
                path=model.path,
                line=scalar.line,
                message=f"max_queue_delay_microseconds is {scalar.number}, "
                f"{scalar.number / 1e6:g} s",
            )


@rule("FL708", "instance-count", "warning")
def instance_count(view: RepositoryView) -> Iterable[Problem]:
    """Every instance group has at least one instance.

    Why: Triton starts one anyway, so the number is misleading.
    Fix: Set `count: 1`.
    """
    for model in view.models:
        for group in model.instance_groups:
            scalar = group.scalar("count")
            if scalar is not None and scalar.number is not None and scalar.number < 1:
                yield Problem(
                    model=model.folder,
                    path=model.path,
                    line=scalar.line,
                    message=f"count is {scalar.number}",
                    hint="count: 1",
                )


@rule("FL709", "ensemble-instances", "error")
def ensemble_instances(view: RepositoryView) -> Iterable[Problem]:
    """An ensemble has no instances or batching of its own.

    Why: Triton refuses them, because an ensemble runs nothing itself.
    Fix: Remove it; give instances to the ensemble's models.
    """
    for model in view.of_role("ensemble"):
        for name in ("instance_group", "dynamic_batching", "sequence_batching"):
            for field in model.config.all(name)[:1]:
                yield Problem(
                    model=model.folder,
                    path=model.path,
                    line=field.line,
                    message=f"an ensemble has {name}",
                )


@rule("FL710", "response-cache", "error")
def response_cache(view: RepositoryView) -> Iterable[Problem]:
    """A model that streams has no response cache.

    Why: Triton refuses to cache the answers of a decoupled model.
    Fix: `response_cache { enable: false }`.
    """
    for model in view.models:
        cache = model.config.message("response_cache")
        switch = None if cache is None else cache.scalar("enable")
        if switch is not None and switch.value.lower() in TRUE_WORDS and model.is_decoupled:
            yield Problem(
                model=model.folder,
                path=model.path,
                line=switch.line,
                message=f"{model.folder} is decoupled, and response_cache is on",
                hint="response_cache { enable: false }",
            )


@rule("FL711", "instance-gpus", "error")
def instance_gpus(view: RepositoryView) -> Iterable[Problem]:
    """Instances on the CPU name no GPUs.

    Why: Triton refuses a group of KIND_CPU or KIND_MODEL that lists GPUs.
    Fix: Remove `gpus`; the GPUs of an engine are set by `gpu_device_ids`.
    """
    for model in view.models:
        for group in model.instance_groups:
            gpus = group.all("gpus")
            if gpus and group.text("kind") in ("KIND_CPU", "KIND_MODEL"):
                yield Problem(
                    model=model.folder,
                    path=model.path,
                    line=gpus[0].line,
                    message=f"an instance group of {group.text('kind')} lists gpus",
                    hint="" if model.role != "tensorrt_llm" else "gpu_device_ids",
                )
