"""Lets a server finish its running requests without taking new ones.

Triton 2.51 does not do that on TERM: it closes HTTP to new requests and waits for all open
connections, even idle ones, while gRPC goes on taking requests; then every scheduler refuses
requests, including the inner steps of running ensembles, whose streams break off. So the models
are unloaded first, from the outside in: an unloading model takes no requests, finishes those it
has, and is gone after the last one.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from trtllm_forge.errors import ForgeError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable

    from trtllm_forge.triton.client.http import TritonHttp

_POLL_S = 0.02
# A model without requests takes up to 1.5 s to go, its stub's end included.
_MOMENT_S = {"outer": 0.5, "inner": 2.0}


def drain(http: TritonHttp, timeout_s: float, tell_waiting: Callable[[], None]) -> bool:
    """Return whether all running requests ended within ``timeout_s`` seconds.

    ``tell_waiting`` is called once, when it takes longer than a moment.
    """
    started = time.monotonic()
    has_told = False
    try:
        ready = {name for name, _, state in http.models() if state == "READY"}
        inner = called_models(http, ready)
        layers = {"outer": ready - inner, "inner": inner}
        for layer, models in layers.items():
            for model in sorted(models):
                http.unload(model)
            asked = time.monotonic()
            while not models.isdisjoint(_loaded(http)):
                now = time.monotonic()
                if now - started > timeout_s:
                    return False
                if now - asked > _MOMENT_S[layer] and not has_told:
                    tell_waiting()
                    has_told = True
                time.sleep(_POLL_S)
    except ForgeError:
        return False  # it no longer answers, or forge has no key to its model control
    return True


def called_models(http: TritonHttp, ready: Collection[str]) -> set[str]:
    """Return the models that other models call, which are therefore unloaded last.

    Only ready models are considered: one that is already unloading, such as an old version,
    no longer reports its configuration.
    """
    return {name for model in ready for name in http.inner_models(model)} & set(ready)


def _loaded(http: TritonHttp) -> Iterable[str]:
    return (name for name, _, state in http.models() if state in ("READY", "UNLOADING"))
