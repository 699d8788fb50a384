"""What a model finds around itself: its parameters, the tokenizer and the engine's limits.

A repository can be moved, so relative paths in ``config.pbtxt`` are taken from the model
repository, whose path Triton gives to every Python model.
"""

import json
from dataclasses import dataclass
from pathlib import Path

from tokenizers import Tokenizer

_TRUE_WORDS = {"true", "1", "t", "y", "yes"}
_FALSE_WORDS = {"false", "0", "f", "n", "no"}


class ModelFolder:
    """The configuration Triton hands to ``initialize``."""

    def __init__(self, args):
        self.config = json.loads(args["model_config"])
        self.repository_dir = Path(args["model_repository"]).parent
        self._parameters = {
            key: value.get("string_value", "")
            for key, value in self.config.get("parameters", {}).items()
        }

    def text(self, key, default=""):
        """Return a parameter; unset, empty and unfilled ``${...}`` values give the default."""
        value = self._parameters.get(key, "")
        return default if not value or value.startswith("${") else value

    def flag(self, key, *, default):
        """Return a yes/no parameter; what is neither gives the default."""
        word = self.text(key).lower()
        if word in _TRUE_WORDS:
            return True
        return False if word in _FALSE_WORDS else default

    def integer(self, key, default=None):
        """Return a whole-number parameter."""
        value = self.text(key)
        return int(value) if value else default

    def path(self, key):
        """Return a path parameter, absolute, or None when it is unset."""
        value = self.text(key)
        return self.repository_dir / value if value else None

    def engine_limits(self):
        """Return the engine's ``engine.json``, or an empty mapping where there is none."""
        engine_dir = self.path("gpt_model_path")
        path = engine_dir / "engine.json" if engine_dir else None
        return json.loads(path.read_text()) if path and path.exists() else {}


@dataclass(frozen=True)
class TokenizerFolder:
    """A tokenizer and the special ids that stand beside it in its folder."""

    tokenizer: Tokenizer
    end_id: int
    pad_id: int


def load_tokenizer(folder):
    """Load ``tokenizer.json`` and find the ids of its end and pad tokens.

    A tokenizer without a pad token pads with its end token; one without an end token has
    the id -1, which no engine produces.
    """
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    end_id = _special_id(tokenizer, folder, "eos_token")
    pad_id = _special_id(tokenizer, folder, "pad_token")
    end_id = -1 if end_id is None else end_id
    return TokenizerFolder(tokenizer, end_id, end_id if pad_id is None else pad_id)


def _special_id(tokenizer, folder, name):
    for file_name in ("tokenizer_config.json", "special_tokens_map.json"):
        path = folder / file_name
        entry = json.loads(path.read_text()).get(name) if path.exists() else None
        content = entry.get("content") if isinstance(entry, dict) else entry
        if content:
            return tokenizer.token_to_id(content)
    return None
