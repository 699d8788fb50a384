"""A ``model.yaml`` of the LLM API's model, with the line of each top-level key."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from trtllm_forge.check.model import Model


@dataclass(frozen=True, kw_only=True)
class ModelYaml:
    """What ``model.yaml`` says.

    Attributes:
        path: Relative to the repository.
        is_there: Whether the file exists.
        error: Why it cannot be read, or nothing.
        error_line: Where.
        values: Its keys.
        lines: Of the keys, joined by dots below the first level.
        doubled: Keys that stand there a second time, and the line of that.
    """

    path: str
    is_there: bool
    error: str
    error_line: int | None
    values: Mapping[str, Any]
    lines: Mapping[str, int]
    doubled: Mapping[str, int]

    def section(self, name: str) -> Mapping[str, Any]:
        """Return the mapping below a key, empty where there is none."""
        value = self.values.get(name)
        return value if isinstance(value, dict) else {}


def read_model_yaml(root: Path, model: Model) -> ModelYaml:
    """Return the ``model.yaml`` of a model's first version."""
    import yaml

    version = model.versions[0] if model.versions else "1"
    name = f"{model.folder}/{version}/model.yaml"
    path = root / name
    values: dict[str, Any] = {}
    lines: dict[str, int] = {}
    doubled: dict[str, int] = {}
    error, error_line = "", None
    if path.is_file():
        try:
            text = path.read_text(encoding="utf-8")
            loader = yaml.SafeLoader(text)
            node = loader.get_single_node()
            loaded = None if node is None else loader.construct_document(node)
            if isinstance(loaded, dict):
                values = {str(key): value for key, value in loaded.items()}
                _find_lines(node, "", lines, doubled)
            elif loaded is not None:
                error = f"it holds {type(loaded).__name__}, not keys"
        except UnicodeDecodeError as mistake:
            error = f"it is not UTF-8: {mistake.reason}"
        except yaml.MarkedYAMLError as mistake:
            mark = mistake.problem_mark
            error = str(mistake.problem or mistake)
            error_line = None if mark is None else mark.line + 1
        except yaml.YAMLError as mistake:
            error = str(mistake)
    return ModelYaml(
        path=name,
        is_there=path.is_file(),
        error=error,
        error_line=error_line,
        values=values,
        lines=lines,
        doubled=doubled,
    )


def _find_lines(node: Any, prefix: str, lines: dict[str, int], doubled: dict[str, int]) -> None:
    for key, value in getattr(node, "value", ()):
        name = f"{prefix}{key.value}"
        if name in lines:
            doubled[name] = key.start_mark.line + 1
        lines[name] = key.start_mark.line + 1
        if not prefix and isinstance(value.value, list) and value.tag.endswith(":map"):
            _find_lines(value, f"{name}.", lines, doubled)
