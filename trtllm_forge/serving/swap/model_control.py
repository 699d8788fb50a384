"""Loads, unloads and replaces the repositories of a server while it serves.

How a version is replaced, as seen on Triton 2.51:

1. The models that others call are loaded beside those of the old version, under names of their
   own (``triton.served_models``). Nobody asks them yet.
2. The front models are loaded again, with a new version number and a configuration that calls
   the new ones. A load replaces a model in one moment: a request that has begun goes on in the
   old one, which is ``UNLOADING`` until its last request has ended, and one that comes then is
   the new one's. So no request sees parts of two versions. Loading the models again under
   their own names would: Triton replaces one after the other, and a request that comes in
   between has the old tokenizer and the new weights.
3. When the old front models are gone, nothing can call the old inner models, and they are
   unloaded. Not before: a BLS model looks for the ones that it calls at each call.

The engine writes custom metrics. Triton keeps one metric per set of labels and removes it with
the model that wrote it first: two engines of one name and version share it, and the second
writes to freed memory. Names and versions of their own keep them apart, too.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from trtllm_forge.errors import ServerError
from trtllm_forge.serving.plan.served_set import write_served_set
from trtllm_forge.serving.server.drain import called_models
from trtllm_forge.serving.swap.load_error import load_error
from trtllm_forge.triton.client.http import TritonAnswerError
from trtllm_forge.triton.repository.served_models import remove_folder, served_models

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable
    from pathlib import Path

    from trtllm_forge.reporter import Reporter
    from trtllm_forge.serving.plan.served_set import ServedSet
    from trtllm_forge.triton.client.http import TritonHttp
    from trtllm_forge.triton.repository.served_models import ServedModels, ServedRepository

_POLL_S = 0.05
_MOMENT_S = 2.0
_HERE = ("READY", "UNLOADING", "LOADING")


@dataclass(frozen=True, kw_only=True)
class ModelChange:
    """The result of a change.

    Attributes:
        repository: The repository as it is, or was, served.
        models: Its front models.
        load_s: Seconds until the new models answered.
        drain_s: Seconds the old models then took to finish their requests and unload.
        is_drained: Whether the old models are unloaded.
    """

    repository: ServedRepository
    models: tuple[str, ...]
    load_s: float = 0.0
    drain_s: float = 0.0
    is_drained: bool = True


class ModelControl:
    """Changes the repositories of one server while ``served_set.changing`` is held.

    Args:
        http: The server, with the key to its model control.
        served: Its repositories.
        log_path: Its log, which says why a model did not load.
        reporter: Gets progress.
    """

    def __init__(
        self, http: TritonHttp, served: ServedSet, log_path: Path, reporter: Reporter
    ) -> None:
        self._http = http
        self._served = served
        self._log_path = log_path
        self._reporter = reporter

    def load(self, repository: ServedRepository) -> ModelChange:
        """Load a repository that the server does not have.

        Raises:
            ServerError: A model does not load, and nothing of it is left; or unloaded models of
                the same names are still finishing their requests.
        """
        started = time.monotonic()
        models = served_models(repository)
        self._require_none(models, repository)
        self._load_new((*models.inner, *models.fronts), models, repository)
        write_served_set(self._served.with_repository(repository))
        return ModelChange(
            repository=repository, models=models.fronts, load_s=time.monotonic() - started
        )

    def unload(self, repository: ServedRepository, timeout_s: float) -> ModelChange:
        """Let a repository's requests end, and unload its models.

        Args:
            repository: As it is served.
            timeout_s: How long its requests may take before its inner models are unloaded too.
        """
        started = time.monotonic()
        own = self._own(repository)
        ready = {name for name, _, state in self._rows(repository) if state == "READY"}
        inner = called_models(self._http, ready)
        is_drained = True
        for layer in (own - inner, inner):
            for model in sorted(layer & ready):
                self._http.unload(model)
            is_drained = self._wait_gone(layer, None, timeout_s) and is_drained
        write_served_set(self._served.without(repository.name))
        self._remove_folders(own)
        return ModelChange(
            repository=repository,
            models=tuple(sorted(own - inner)),
            drain_s=time.monotonic() - started,
            is_drained=is_drained,
        )

    def reload(self, repository: ServedRepository, timeout_s: float) -> ModelChange:
        """Replace a repository by the current content of its folder.

        Args:
            repository: As it is served.
            timeout_s: How long to wait for requests of the old version. Requests still running
                then continue, and its models are unloaded with them or at the next reload.

        Raises:
            ServerError: A model of the new version does not load; the old one is still served.
        """
        started = time.monotonic()
        before = self._own(repository)
        new = replace(repository, version=self._next_version(repository))
        models = served_models(new)
        self._load_new((*models.inner, *models.rehearsals), models, new)
        self._replace(models.fronts, models, new)
        for model in models.rehearsals:
            self._http.unload(model)
        load_s = time.monotonic() - started
        write_served_set(self._served.with_repository(new))
        # A BLS model looks for what it calls at each call; a request of an ensemble has it from
        # its start, but for the moment before that.
        ensembles = {name for name in models.fronts if self._http.inner_models(name)}
        is_drained = self._wait_gone(set(models.fronts) - ensembles, new.version, timeout_s)
        if is_drained:
            self._wait_gone(ensembles, new.version, _MOMENT_S)
            self._replace(models.aliases, models, new)
            old = before - models.folders.keys()
            for model in sorted(old):
                self._http.unload(model)
            others = {*models.fronts, *models.aliases}
            is_drained = self._wait_gone(old, None, timeout_s)
            is_drained = self._wait_gone(others, new.version, timeout_s) and is_drained
            self._remove_folders({*old, *models.rehearsals})
        return ModelChange(
            repository=new,
            models=models.fronts,
            load_s=load_s,
            drain_s=time.monotonic() - started - load_s,
            is_drained=is_drained,
        )

    def _require_none(self, models: ServedModels, repository: ServedRepository) -> None:
        taken = [
            name
            for name, _, state in self._http.models()
            if name in models.folders and state in _HERE
        ]
        if taken:
            what = f"{taken[0]} of an earlier {repository.name} is still finishing its requests"
            why = "two models of one name and version would write the same metrics"
            raise ServerError(what, why=why, log_path=self._log_path)

    def _load_new(
        self, names: Iterable[str], models: ServedModels, repository: ServedRepository
    ) -> None:
        """Load models that are not served yet: all of them or none."""
        loaded: list[str] = []
        for name in names:
            self._tell_loading(name)
            models.folders[name].write(self._served.view_dir / name)
            offset = self._log_path.stat().st_size if self._log_path.exists() else 0
            loaded.append(name)
            try:
                self._http.load(name)
            except BaseException as error:
                # Also those that did not load: the server is not ready while it lists one.
                for other in reversed(loaded):
                    self._http.unload(other)
                self._wait_gone(loaded, None, None)
                self._remove_folders(loaded)
                if not isinstance(error, TritonAnswerError):
                    raise
                raise load_error(
                    error, name, repository, self._served, self._log_path, offset
                ) from error

    def _replace(
        self, names: Iterable[str], models: ServedModels, repository: ServedRepository
    ) -> None:
        """Reload models under names that are already served."""
        for name in names:
            self._tell_loading(name)
            models.folders[name].write(self._served.view_dir / name)
            try:
                self._http.load(name)
            except TritonAnswerError as error:
                # Its rehearsal did load, so the cause is not in the repository.
                version = f"version {repository.version} of {repository.name}"
                what = f"{version} is loaded, but {name} is not"
                why = f"{error.what}; {name} still serves the old version, others may be new"
                hint = f"forge reload {repository.name}"
                raise ServerError(what, why=why, hint=hint, log_path=self._log_path) from error

    def _own(self, repository: ServedRepository) -> set[str]:
        """Return a repository's models in the server, of any version."""
        return {name for name, _, state in self._rows(repository) if state in _HERE}

    def _next_version(self, repository: ServedRepository) -> int:
        versions = [int(version) for _, version, _ in self._rows(repository) if version.isdigit()]
        return max([repository.version, *versions]) + 1

    def _rows(self, repository: ServedRepository) -> list[tuple[str, str, str]]:
        prefix = repository.prefix
        others = tuple(
            one.prefix for one in self._served.repositories if len(one.prefix) > len(prefix)
        )
        return [
            row
            for row in self._http.models()
            if row[0].startswith(prefix) and not row[0].startswith(others)
        ]

    def _wait_gone(
        self, names: Collection[str], version: int | None, timeout_s: float | None
    ) -> bool:
        """Return whether all versions of models, or all but one, were unloaded in time."""
        started = time.monotonic()
        while left := sorted(
            f"{name} {number}"
            for name, number, state in self._http.models()
            if name in names and state in _HERE and number != str(version)
        ):
            waited_s = time.monotonic() - started
            if timeout_s is not None and waited_s > timeout_s:
                return False
            self._reporter.waiting(
                f"waiting for the requests of {', '.join(left)}", f"{waited_s:.0f} s"
            )
            time.sleep(_POLL_S)
        return True

    def _remove_folders(self, names: Iterable[str]) -> None:
        for name in names:
            remove_folder(self._served.view_dir / name)

    def _tell_loading(self, name: str) -> None:
        self._reporter.waiting(f"loading {name}", "")
