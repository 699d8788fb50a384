"""FL801 to FL819: what a repository carries that it had better not."""

from __future__ import annotations

import re
import stat
from typing import TYPE_CHECKING

from trtllm_forge.check.files import small_file
from trtllm_forge.check.finding import Problem
from trtllm_forge.check.registry import rule

if TYPE_CHECKING:
    from collections.abc import Iterable

    from trtllm_forge.check.view import RepositoryView

_PICKLES = (".pkl", ".pickle", ".pt", ".pth", ".ckpt", ".joblib")
_TORCH_WEIGHTS = re.compile(r"(pytorch_model|adapter_model|training_args).*\.bin")
_TEXTS = (".pbtxt", ".json", ".yaml", ".yml", ".py", ".txt", ".sh", ".env", ".toml", ".cfg", ".ini")
_SECRET = re.compile(
    r"\bhf_[A-Za-z0-9]{30,}\b|\bnvapi-[A-Za-z0-9_\-]{40,}|\bAKIA[0-9A-Z]{16}\b"
    r"|\bghp_[A-Za-z0-9]{36}\b|\bgithub_pat_\w{40,}|\bsk-[A-Za-z0-9_\-]{32,}"
    r"|-----BEGIN (?:RSA |EC |OPENSSH )?PRIVATE KEY-----"
)
_SECRET_STARTS = ("hf_", "nvapi-", "AKIA", "ghp_", "github_pat_", "sk-", "PRIVATE KEY")
_LARGEST_TEXT_BYTES = 256 << 10


@rule("FL801", "pickle", "warning")
def pickle(view: RepositoryView) -> Iterable[Problem]:
    """No file can run code when it is read.

    Why: Python runs what a pickle contains.
    Fix: Convert weights to safetensors, and leave training files out.
    """
    for path, name in view.files:
        is_pickle = path.suffix in _PICKLES or _TORCH_WEIGHTS.fullmatch(path.name)
        if is_pickle:
            yield Problem(
                model=name.split("/")[0],
                path=name,
                message=f"{path.name} is a pickle, which can run code when it is read",
                hint="safetensors holds the same weights",
            )


@rule("FL802", "secret", "error")
def secret(view: RepositoryView) -> Iterable[Problem]:
    """No file holds a token or a key.

    Why: Everyone who can read the repository can use it.
    Fix: Remove it, give it to the server's environment, and revoke it, because it was in a
        file.
    """
    for path, name in view.files:
        if path.suffix not in _TEXTS and not path.name.startswith(".env"):
            continue
        content = None if path.is_symlink() else small_file(path, _LARGEST_TEXT_BYTES)
        text = (content or b"").decode("utf-8", errors="replace")
        if not any(start in text for start in _SECRET_STARTS):
            continue
        for match in _SECRET.finditer(text):
            yield Problem(
                model=name.split("/")[0] if "/" in name else "",
                path=name,
                line=text.count("\n", 0, match.start()) + 1,
                message=f"{match.group()[:6]}... looks like a token or key",
                hint="give it to the server's environment, and make a new one",
            )


@rule("FL803", "link-outside", "warning")
def link_outside(view: RepositoryView) -> Iterable[Problem]:
    """Links stay inside the repository.

    Why: The target does not exist where the repository is mounted.
    Fix: Copy the target of the link into the repository.
    """
    root = view.root.resolve()
    for path, name in view.files:
        if not path.is_symlink():
            continue
        target = path.readlink()
        if not path.exists():
            message, is_broken = f"the link to {target} leads nowhere", True
        elif target.is_absolute() or not path.resolve().is_relative_to(root):
            message, is_broken = f"the link to {target} leads out of the repository", False
        else:
            continue
        yield Problem(
            model=name.split("/")[0],
            path=name,
            message=message,
            severity="error" if is_broken else None,
        )


@rule("FL804", "writable", "warning")
def writable(view: RepositoryView) -> Iterable[Problem]:
    """The repository is not writable by everyone.

    Why: Its Python files run with the server's rights.
    Fix: `chmod -R o-w DIR`.
    """
    for path, name in view.files:
        if not path.is_symlink() and path.stat().st_mode & stat.S_IWOTH:
            yield Problem(
                model=name.split("/")[0] if "/" in name else "",
                path=name,
                message="it is writable by everyone",
                hint=f"chmod o-w {name}",
            )


@rule("FL805", "unreadable", "error")
def unreadable(view: RepositoryView) -> Iterable[Problem]:
    """The server may read every file.

    Why: Triton often runs as a different user than the one who built the repository.
    Fix: `chmod a+r FILE`.
    """
    for path, name in view.files:
        if not path.is_symlink() and not path.stat().st_mode & (stat.S_IRUSR | stat.S_IRGRP):
            yield Problem(
                model=name.split("/")[0] if "/" in name else "",
                path=name,
                message="nobody can read it",
                hint=f"chmod a+r {name}",
            )
