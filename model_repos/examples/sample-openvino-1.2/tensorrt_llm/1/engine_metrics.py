"""Triton's custom metrics of the engine, under TensorRT-LLM's names where they mean the same.

Used by the dispatcher's thread alone. A family has one name for all models of a server; the
labels tell them apart.
"""

import time

import triton_python_backend_utils as pb_utils

_GAUGES = {
    "nv_trt_llm_request_metrics": (
        "Requests by state",
        "request_type",
        ("active", "max", "scheduled", "context", "waiting"),
    ),
    "nv_trt_llm_kv_cache_block_metrics": (
        "KV cache blocks",
        "kv_cache_block_type",
        ("max", "free", "used", "tokens_per", "fraction"),
    ),
    "nv_trt_llm_runtime_memory_metrics": (
        "Memory of the engine's process, in bytes",
        "memory_type",
        ("cpu",),
    ),
    "nv_trt_llm_general_metrics": (
        "Time of these figures in microseconds, and the engine's steps",
        "general_type",
        ("timestamp", "iteration_counter"),
    ),
}
_TOKENS = ("forge_tokens", "Tokens of finished requests", "token_type")
_TOKEN_TYPES = ("prompt", "generated", "accepted_draft")


class EngineMetrics:
    """What dashboards and autoscalers read of one engine."""

    def __init__(self, *, model, version, max_batch_size, block_tokens, kv_blocks):
        labels = {"model": model, "version": version}
        self._families = []  # a metric does not outlive its family
        self._metrics = {}
        for name, (description, label, kinds) in _GAUGES.items():
            family = self._family(name, description, pb_utils.MetricFamily.GAUGE)
            for kind in kinds:
                self._metrics[label, kind] = family.Metric(labels={**labels, label: kind})
        name, description, label = _TOKENS
        family = self._family(name, description, pb_utils.MetricFamily.COUNTER)
        self._tokens = {
            kind: family.Metric(labels={**labels, label: kind}) for kind in _TOKEN_TYPES
        }
        self._kv_blocks = kv_blocks
        self._set("request_type", max=max_batch_size)
        self._set("kv_cache_block_type", max=kv_blocks, tokens_per=block_tokens)
        self.update((0, 0, 0, 0, 0.0, 0))

    def update(self, figures):
        """Take the engine's figures, as ``engine_worker`` sends them."""
        steps, running, waiting, context, usage, memory_bytes = figures
        used = round(usage / 100 * self._kv_blocks)
        self._set(
            "request_type",
            active=running + waiting,
            scheduled=running,
            context=context,
            waiting=waiting,
        )
        self._set(
            "kv_cache_block_type",
            used=used,
            free=self._kv_blocks - used,
            fraction=usage / 100,
        )
        self._set("memory_type", cpu=memory_bytes)
        self._set("general_type", timestamp=time.time() * 1e6, iteration_counter=steps)

    def count(self, *, prompt, generated, accepted_draft):
        """Add the tokens of a finished request."""
        self._tokens["prompt"].increment(prompt)
        self._tokens["generated"].increment(generated)
        self._tokens["accepted_draft"].increment(accepted_draft)

    def _set(self, label, **values):
        for kind, value in values.items():
            self._metrics[label, kind].set(value)

    def _family(self, name, description, kind):
        family = pb_utils.MetricFamily(name=name, description=description, kind=kind)
        self._families.append(family)
        return family
