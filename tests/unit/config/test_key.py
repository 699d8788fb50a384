"""How a key reads its values: in its own type, within its bounds, or not at all."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from trtllm_forge.config.keys import config_keys

if TYPE_CHECKING:
    from trtllm_forge.config.key import ConfigKey

KEYS = {key.name: key for key in config_keys()}


@pytest.mark.parametrize(
    ("name", "value", "read"),
    [
        ("tp_size", "2", 2),
        ("tp_size", 2.0, 2),
        ("drain_timeout_s", "0", 0.0),
        ("drain_timeout_s", 5, 5.0),
        ("decoupled", "off", False),
        ("decoupled", "YES", True),
        ("decoupled", True, True),
        ("restart", "on-failure", "on-failure"),
        ("model", "org/coder", "org/coder"),
        ("max_seq_len", None, None),
    ],
)
def test_a_value_is_read_in_the_type_of_its_key(name: str, value: object, read: object) -> None:
    found = KEYS[name].read(value)

    assert (found, type(found)) == (read, type(read))


@pytest.mark.parametrize(
    ("name", "value", "wanted"),
    [
        ("tp_size", True, "whole number of at least 1"),
        ("tp_size", 1.5, "whole number of at least 1"),
        ("tp_size", "two", "whole number of at least 1"),
        ("tp_size", None, "whole number of at least 1"),
        ("tp_size", [1], "whole number of at least 1"),
        ("drain_timeout_s", "nan", "number of at least 0"),
        ("drain_timeout_s", float("inf"), "number of at least 0"),
        ("ready_timeout_s", 0, "number above 0"),
        ("decoupled", "maybe", "true, false"),
        ("decoupled", 1, "true, false"),
        ("restart", "always", "never, on-failure"),
        ("model", "", "text"),
        ("model", 5, "text"),
        ("mount_root", "models", "an absolute path"),
        ("name", "a b", "letters, digits, dots and dashes"),
    ],
)
def test_another_value_is_refused_with_what_was_wanted(
    name: str, value: object, wanted: str
) -> None:
    with pytest.raises(ValueError, match="wanted") as caught:
        KEYS[name].read(value)

    assert str(caught.value) == f"{name} is {value!r}, wanted: {wanted}"


def test_every_default_is_a_value_of_its_key() -> None:
    assert [key.path for key in config_keys() if key.read(key.default) != key.default] == []


def test_a_key_says_its_flag_variable_and_path() -> None:
    key: ConfigKey = KEYS["tp_size"]

    assert (key.flag, key.variable, key.path) == ("--tp", "FORGE_TP_SIZE", "build.tp_size")
