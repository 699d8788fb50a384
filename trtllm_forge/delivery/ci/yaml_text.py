"""Writes a document as YAML that people read: scripts as blocks, a comment before each section."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable

_NO_WRAPPING = 1 << 16


def yaml_text(sections: Iterable[tuple[str, str, object]], *, heading: str) -> str:
    """Return sections as one YAML document.

    Args:
        sections: Comment, key and value of each; the comment may be empty or of several lines.
        heading: What stands at the top, as a comment.
    """
    import yaml

    parts = [_comment(heading)]
    for comment, key, value in sections:
        text = yaml.dump(
            {key: value},
            Dumper=_dumper(),
            sort_keys=False,
            allow_unicode=True,
            width=_NO_WRAPPING,
            default_flow_style=False,
        )
        parts.append(_comment(comment) + text)
    return "\n".join(parts)


def _comment(text: str) -> str:
    return "".join(f"# {line}".rstrip() + "\n" for line in text.splitlines())


@functools.lru_cache(maxsize=1)
def _dumper() -> Any:
    import yaml

    class Dumper(yaml.SafeDumper):
        def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:  # noqa: ARG002 - PyYAML's
            super().increase_indent(flow, indentless=False)

        def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002 - PyYAML's signature
            # The same list twice is written twice: people read this.
            return True

    def represent_text(dumper: Any, text: str) -> Any:
        style = "|" if "\n" in text else None
        return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)

    Dumper.add_representer(str, represent_text)
    return Dumper
