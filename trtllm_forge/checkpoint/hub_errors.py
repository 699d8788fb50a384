"""Turn failures of the Hub and the connection to it into errors a user can act on."""

from __future__ import annotations

import errno
import re
import shlex
from typing import TYPE_CHECKING

from trtllm_forge.checkpoint.presets import find_preset, nearest_preset
from trtllm_forge.errors import CheckpointError, ConfigError, ForgeError, PrerequisiteError
from trtllm_forge.machine.process.secrets import without_credentials

if TYPE_CHECKING:
    from trtllm_forge.checkpoint.hub_access import HubAccess
    from trtllm_forge.checkpoint.presets import ModelReference

_NO_SPACE = (errno.ENOSPC, errno.EDQUOT)
_RATELIMIT_RESET = re.compile(r"\bt\s*=\s*(\d+)")


def hub_error_classes() -> tuple[type[Exception], ...]:
    """Return all classes the Hub's library raises for a bad or missing answer."""
    import httpx

    # ValueError: an id the library rejects, or an answer that is not JSON.
    return (httpx.HTTPError, httpx.InvalidURL, OSError, ValueError)


def explain_hub_error(
    error: Exception, access: HubAccess, reference: ModelReference, *, file: str = ""
) -> ForgeError:
    """Return the error to show the user; ``file`` is the one being fetched."""
    from huggingface_hub.errors import GatedRepoError, HFValidationError, RevisionNotFoundError

    again = f"forge build {shlex.quote(reference.text)}"
    cause = error if _status_of(error) is not None else (error.__cause__ or error)
    status = _status_of(cause)
    if isinstance(cause, HFValidationError):
        what = f'"{reference.repo_id}" is not a Hub id'
        return ConfigError(what, why=_first_line(cause))
    if isinstance(cause, OSError) and cause.errno in _NO_SPACE:
        return CheckpointError(
            f"no space left on the disk of the Hugging Face cache while fetching {file}",
            why=f"the cache is {access.cache_dir}; complete files were kept",
            hint=f"HF_HOME=/larger/disk {again}",
        )
    if isinstance(cause, OSError) and cause.filename is not None:
        what = f"cannot write to the Hugging Face cache {access.cache_dir}"
        return CheckpointError(
            what, why=without_credentials(str(cause)), hint=f"HF_HOME=/another/folder {again}"
        )
    if isinstance(cause, GatedRepoError):
        return _gated(access, reference, status)
    if status == 401 and access.token:
        what = f"the Hub rejected the Hugging Face token (401) for {reference.repo_id}"
        return PrerequisiteError(
            what,
            why="the token is wrong, expired or not allowed to read",
            hint="hf auth login",
        )
    if isinstance(cause, RevisionNotFoundError):
        what = f"{reference.repo_id} has no revision {reference.revision or 'main'}"
        return CheckpointError(what, why=f"the Hub answered {status}", hint=again)
    if status in (401, 404) and not file:
        return _missing(reference, status)
    if status == 429:
        return _rate_limited(cause, access, reference)
    if status is not None:
        thing = f"{file} of {reference.repo_id}" if file else reference.repo_id
        what = f"the Hub did not serve {thing}: it answered {status}"
        return CheckpointError(
            what, why=f"the Hub is {without_credentials(access.endpoint)}", hint=again
        )
    return _unreachable(cause, access, reference, file)


def retry_after_s(headers: object) -> int | None:
    """Return how many seconds a 429 answer asks to wait, or None if it does not say."""
    get = getattr(headers, "get", None)
    if get is None:
        return None
    plain = str(get("Retry-After") or "")
    if plain.isdigit():
        return int(plain)
    found = _RATELIMIT_RESET.search(str(get("RateLimit") or ""))
    return int(found.group(1)) if found else None


def _gated(access: HubAccess, reference: ModelReference, status: int | None) -> ForgeError:
    page = f"{without_credentials(access.endpoint)}/{reference.repo_id}"
    licence = f"its licence, {reference.preset.licence}," if reference.preset else "its licence"
    why = f"the Hub answered {status}; {licence} must be accepted at {page}"
    if access.token is None:
        return PrerequisiteError(
            f"{reference.repo_id} is gated and no Hugging Face token is set",
            why=why,
            hint=f"hf auth login  # after accepting the licence at {page}",
        )
    return CheckpointError(
        f"{reference.repo_id} is gated and this Hugging Face token has no access to it",
        why=why,
        hint=f"python3 -m webbrowser {page}  # accept the licence; hf auth login changes the token",
    )


def _missing(reference: ModelReference, status: int) -> ForgeError:
    nearest = nearest_preset(reference.text)
    if nearest is not None and find_preset(nearest) == reference.preset:
        nearest = None
    private = " or is private and needs a token" if status == 401 else ""
    return CheckpointError(
        f"the Hub has no model {reference.repo_id}",
        why=f"the Hub answered {status}: it does not exist{private}; "
        f"there is no folder {reference.text} either",
        hint=f"forge build {nearest}" if nearest else "",
    )


def _rate_limited(cause: BaseException, access: HubAccess, reference: ModelReference) -> ForgeError:
    wait_s = retry_after_s(getattr(getattr(cause, "response", None), "headers", None))
    again = f"forge build {shlex.quote(reference.text)}"
    asks = (
        f"it asks to wait {wait_s} s" if wait_s is not None else "it does not say how long to wait"
    )
    token = "" if access.token else "; a token raises the limit (hf auth login)"
    return CheckpointError(
        f"the Hub answered 429, too many requests, for {reference.repo_id}",
        why=f"{asks}{token}; what was downloaded is kept",
        hint=f"sleep {60 if wait_s is None else wait_s} && {again}",
    )


def _unreachable(
    cause: BaseException, access: HubAccess, reference: ModelReference, file: str
) -> ForgeError:
    again = f"forge build {shlex.quote(reference.text)}"
    if file:
        return CheckpointError(
            f"the connection broke while fetching {file} of {reference.repo_id}",
            why=f"{_first_line(cause)}; what was downloaded is kept, and the next run resumes it",
            hint=again,
        )
    return CheckpointError(
        f"cannot reach the Hub at {without_credentials(access.endpoint)} for {reference.repo_id}",
        why=_first_line(cause),
        hint=f"HF_HUB_OFFLINE=1 {again}  # uses what the Hugging Face cache holds",
    )


def _status_of(error: BaseException) -> int | None:
    status = getattr(getattr(error, "response", None), "status_code", None)
    return int(status) if status is not None else None


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return without_credentials(lines[0]) if lines else type(error).__name__
