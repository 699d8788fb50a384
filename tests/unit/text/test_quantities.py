from __future__ import annotations

import pytest

from trtllm_forge.errors import ConfigError
from trtllm_forge.text.quantities import GIB, show_size, size_in_bytes


@pytest.mark.parametrize(
    ("size_bytes", "shown"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1536, "1.5 KiB"),
        (80 * GIB, "80.0 GiB"),
        (1 << 60, "1048576.0 TiB"),
    ],
)
def test_size_is_shown_in_the_largest_unit_that_gives_one(size_bytes: int, shown: str) -> None:
    assert show_size(size_bytes) == shown


@pytest.mark.parametrize(
    ("text", "size_bytes"),
    [("64m", 64 << 20), ("2GiB", 2 * GIB), ("1.5k", 1536), ("7", 7), ("7b", 7)],
)
def test_size_is_read_in_units_of_1024(text: str, size_bytes: int) -> None:
    assert size_in_bytes(text) == size_bytes


def test_what_is_no_size_is_refused() -> None:
    with pytest.raises(ConfigError):
        size_in_bytes("much")
