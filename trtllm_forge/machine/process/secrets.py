"""What must not reach a child process, a log or a message: tokens and passwords."""

from __future__ import annotations

import os
import re

_SECRETS = frozenset({"HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "NGC_API_KEY", "NGC_CLI_API_KEY"})

_CREDENTIALS = re.compile(r"(?<=:)//[^/?#\s\"'<>]*@")


def environment_without_secrets() -> dict[str, str]:
    """Return forge's environment without Hub and NGC tokens, which no child needs."""
    return {name: value for name, value in os.environ.items() if name not in _SECRETS}


def without_credentials(text: str) -> str:
    """Return ``text`` with user names and passwords removed from its URLs."""
    return _CREDENTIALS.sub("//", text)
