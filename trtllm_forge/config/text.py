"""Writes a configuration as a commented ``forge.yaml`` or as a list with origins."""

from __future__ import annotations

from typing import TYPE_CHECKING

import yaml

from trtllm_forge.config.keys import config_keys, section_help
from trtllm_forge.config.load import DEFAULT_ORIGIN

if TYPE_CHECKING:
    from trtllm_forge.config.key import ConfigKey
    from trtllm_forge.config.load import LoadedConfig

SHOW_SCHEMA = 1


def forge_yaml_text(loaded: LoadedConfig) -> str:
    """Return a ``forge.yaml`` with every key; defaults are commented out."""
    lines = [
        "# Read by `forge build`. Each key is also a flag and a variable: max_batch_size is",
        "# --max-batch-size and FORGE_MAX_BATCH_SIZE. Precedence, highest first: flag, variable,",
        "# this file, default; `forge config show` prints where each value comes from.",
    ]
    section = ""
    for key in config_keys():
        if key.section != section:
            section = key.section
            lines += ["", f"# {section_help()[section]}", f"{section}:"]
        indent = "  " if section else ""
        value = _yaml_scalar(loaded.value(key.path))
        mark = "# " if loaded.origins[key.path] == DEFAULT_ORIGIN else ""
        lines += [
            "",
            f"{indent}# {key.help}",
            f"{indent}# ({key.values})",
            f"{indent}{mark}{key.name}: {value}".rstrip(),
        ]
    return "\n".join(lines) + "\n"


def show_text(loaded: LoadedConfig) -> str:
    """Return every value and where it came from, one per line."""
    rows = [(key.path, _shown(key, loaded), loaded.origins[key.path]) for key in config_keys()]
    widths = [max(len(row[column]) for row in rows) for column in (0, 1)]
    return "\n".join(f"{p:<{widths[0]}}  {v:<{widths[1]}}  {origin}" for p, v, origin in rows)


def show_document(loaded: LoadedConfig) -> dict[str, object]:
    """Return every value and where it came from, as a JSON document."""
    values = {
        key.path: {"value": loaded.value(key.path), "origin": loaded.origins[key.path]}
        for key in config_keys()
    }
    return {"schema": SHOW_SCHEMA, "values": values}


def _shown(key: ConfigKey, loaded: LoadedConfig) -> str:
    value = loaded.value(key.path)
    return "unset" if value is None else _yaml_scalar(value)


def _yaml_scalar(value: object) -> str:
    if value is None:
        return ""
    text: str = yaml.safe_dump(value, allow_unicode=True, width=float("inf"))
    return text.removesuffix("\n").removesuffix("\n...")
