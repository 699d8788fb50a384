"""What docker takes as a value of its flags; everything else is refused, as docker does."""

from __future__ import annotations

import argparse
import csv
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

_PUBLISHED = re.compile(r"(?P<host>[\d.]+|\[[\da-f:]+\]):(?P<outside>\d+):(?P<inside>\d+)")


def read_csv(text: str) -> list[str]:
    try:
        (fields,) = csv.reader([text], strict=True)
    except (ValueError, csv.Error) as error:
        raise argparse.ArgumentTypeError(f"{text!r} is no line of CSV: {error}") from None
    # Python's reader forgives what Go's refuses: a quote inside a field that is not quoted.
    plain = re.sub(r'(^|,)"(?:[^"]|"")*"(?=,|$)', r"\1", text)
    if '"' in plain:
        raise argparse.ArgumentTypeError(f'{text!r}: bare " in non-quoted-field')
    return fields


def mount(text: str) -> dict[str, str]:
    found = {}
    for field in read_csv(text):
        key, equals, value = field.partition("=")
        names = {"src": "source", "dst": "target", "destination": "target", "ro": "readonly"}
        key = names.get(key, key)
        if key not in {"type", "source", "target", "readonly"}:
            raise argparse.ArgumentTypeError(f"unexpected key '{key}' in '{field}'")
        if not equals and key != "readonly":
            raise argparse.ArgumentTypeError(f"invalid field '{field}' must be a key=value pair")
        found[key] = value if equals else "true"
    if found.get("type") != "bind":
        raise argparse.ArgumentTypeError("the stand-in has bind mounts only")
    for key in ("source", "target"):
        if not found.get(key, "").startswith("/"):
            raise argparse.ArgumentTypeError(f"invalid mount path: '{found.get(key)}'")
    return found


def gpus(text: str) -> str:
    fields = read_csv(text)
    counts = [field for field in fields if "=" not in field or field.startswith("count=")]
    for field in counts:
        if not re.fullmatch(r"(count=)?(all|\d+)", field):
            raise argparse.ArgumentTypeError(f"invalid count ({field})")
    devices = [field for field in fields if field.startswith("device=")]
    if counts and devices:
        raise argparse.ArgumentTypeError("cannot set both Count and DeviceIDs on device request.")
    if len(devices) + len(counts) != 1:
        raise argparse.ArgumentTypeError(f"unexpected gpu request {text}")
    return text


def matching(pattern: str) -> Callable[[str], str]:
    def check(text: str) -> str:
        if not re.fullmatch(pattern, text):
            raise argparse.ArgumentTypeError(f"invalid value {text!r}")
        return text

    return check


def published(text: str) -> tuple[str, int, int]:
    """Return address, outer and inner port of a ``--publish``; the address has to be there."""
    match = _PUBLISHED.fullmatch(text)
    if match is None:
        raise argparse.ArgumentTypeError(f"not published on one address: {text}")
    return match["host"].strip("[]"), int(match["outside"]), int(match["inside"])
