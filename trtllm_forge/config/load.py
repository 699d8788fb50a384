"""Finds every value of the configuration and where it came from.

Precedence, highest first: the command line, ``FORGE_*``, ``forge.yaml``, the default. All mistakes
are collected and reported as one ``ConfigError``.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trtllm_forge.config.keys import PRECISION_FLAGS, config_keys, section_types
from trtllm_forge.config.mistakes import Mistake, config_error
from trtllm_forge.config.schema import ForgeConfig
from trtllm_forge.config.settings import DEFAULT_CONFIG_NAME
from trtllm_forge.text.spelling import nearest

if TYPE_CHECKING:
    from collections.abc import Mapping

    from trtllm_forge.config.document import ConfigDocument
    from trtllm_forge.config.key import ConfigKey

DEFAULT_ORIGIN = "default"


@dataclass(frozen=True, kw_only=True)
class LoadedConfig:
    """A configuration and where each of its values came from.

    Attributes:
        config: The values.
        origins: By path such as ``build.tp_size``: a flag, a variable, ``forge.yaml:14`` or
            ``default``.
    """

    config: ForgeConfig
    origins: Mapping[str, str]

    def value(self, path: str) -> object:
        """Return the value of a key such as ``build.tp_size``."""
        value: object = self.config
        for name in path.split("."):
            value = getattr(value, name)
        return value


@dataclass(kw_only=True)
class _Collected:
    values: dict[str, object] = field(default_factory=dict)
    origins: dict[str, str] = field(default_factory=dict)
    mistakes: list[Mistake] = field(default_factory=list)

    def set(self, key: ConfigKey, value: object, origin: str) -> None:
        self.values[key.path] = _spelled(key, value)
        self.origins[key.path] = origin


def _spelled(key: ConfigKey, value: object) -> object:
    """Return a value as the schema spells it: a choice may be written with dashes, like flags."""
    if isinstance(value, str) and value not in key.choices:
        underscored = value.replace("-", "_")
        return underscored if underscored in key.choices else value
    return value


def load_config(
    *, flags: Mapping[str, object], config_path: Path | None, environment: Mapping[str, str]
) -> LoadedConfig:
    """Return the configuration of one command.

    Args:
        flags: Values from the command line by key name; None means not given. A precision is a
            true value under its own word: ``{"int4": True}``.
        config_path: The file to read, or None for ``./forge.yaml`` if it exists.
        environment: ``FORGE_*`` variables, prefix removed, in lower case.

    Raises:
        ConfigError: Some values are wrong; one error lists all mistakes.
    """
    collected = _Collected()
    document = _document(config_path)
    if document is not None:
        _take_document(collected, document)
    _take_environment(collected, environment)
    _take_flags(collected, flags)
    return _loaded(collected)


def load_flags(flags: Mapping[str, object]) -> LoadedConfig:
    """Return the configuration from flags and defaults only, without file or variables.

    Raises:
        ConfigError: Some values are wrong; one error lists all mistakes.
    """
    collected = _Collected()
    _take_flags(collected, flags)
    return _loaded(collected)


def _loaded(collected: _Collected) -> LoadedConfig:
    config = _validate(collected)
    if collected.mistakes or config is None:
        raise config_error(collected.mistakes)
    origins = {key.path: collected.origins.get(key.path, DEFAULT_ORIGIN) for key in config_keys()}
    return LoadedConfig(config=config, origins=origins)


def _document(config_path: Path | None) -> ConfigDocument | None:
    path = config_path or Path(DEFAULT_CONFIG_NAME)
    if config_path is None and not path.exists():
        return None
    # YAML takes as long to import as everything else here, and often there is no file.
    from trtllm_forge.config.document import read_document

    return read_document(path)


def _take_document(collected: _Collected, document: ConfigDocument) -> None:
    collected.mistakes += document.mistakes
    for key in config_keys():
        if key.path in document.values:
            where = document.where(document.lines[key.path])
            collected.set(key, document.values[key.path], where)


def _take_environment(collected: _Collected, environment: Mapping[str, str]) -> None:
    known = {key.name: key for key in config_keys()}
    for name, text in environment.items():
        if not text:
            continue
        if name in known:
            collected.set(known[name], text, known[name].variable)
        elif (close := nearest(name, known, cutoff=0.85)) is not None:
            # Other programs have FORGE_* variables too, so only likely typos are refused.
            wrong, right = f"FORGE_{name.upper()}", known[close].variable
            what = f"{wrong} is not an option, the nearest is {right}"
            collected.mistakes.append(
                Mistake(what=what, where="the environment", fix=f"unset {wrong}")
            )


def _take_flags(collected: _Collected, flags: Mapping[str, object]) -> None:
    for key in config_keys():
        if key.name != "precision" and flags.get(key.name) is not None:
            value = flags[key.name]
            origin = f"--no-{key.flag[2:]}" if value is False else key.flag
            collected.set(key, value, "MODEL" if key.name == "model" else origin)
    given = [name for name in PRECISION_FLAGS if flags.get(name)]
    precision = next(key for key in config_keys() if key.name == "precision")
    words = [f"--{name.replace('_', '-')}" for name in given]
    if len(given) > 1:
        what = f"a build has one precision, but {' and '.join(words)} were given"
        fix = f"keep {words[0]}"
        collected.mistakes.append(Mistake(what=what, where="the command line", fix=fix))
    elif given:
        collected.set(precision, given[0], words[0])


def _validate(collected: _Collected) -> ForgeConfig | None:
    values: dict[str, dict[str, Any]] = {"": {}}
    wrong = set()
    for key in config_keys():
        if key.path not in collected.values:
            continue
        value = collected.values[key.path]
        try:
            values.setdefault(key.section, {})[key.name] = key.read(value)
        except ValueError:
            wrong.add(key.section)
            collected.mistakes.append(_mistake(key, value, collected.origins[key.path]))
    for section, kind in section_types().items():
        if section in wrong:
            continue
        try:
            values[""][section] = kind(**values.get(section, {}))
        except ValueError as error:
            wrong.add(section)
            collected.mistakes.append(_contradiction(section, str(error), collected.origins))
    return None if wrong else ForgeConfig(**values[""])


def _contradiction(section: str, message: str, origins: Mapping[str, str]) -> Mistake:
    involved = [
        origins[key.path]
        for key in config_keys()
        if key.section == section and key.name in message and key.path in origins
    ]
    return Mistake(what=f"{section}: {message}", where=", ".join(involved))


def _mistake(key: ConfigKey, value: object, origin: str) -> Mistake:
    if value is None:
        what = f"{key.path} has no value, wanted: {key.values}"
        return Mistake(what=what, where=origin, fix=f"remove {key.name} or give it a value")
    wanted = f"one of {key.values}" if len(key.choices) > 1 else key.values
    what = f"{key.path} is {_shown(value)}, wanted: {wanted}"
    return Mistake(what=what, where=origin, fix=_fix(key, value, origin))


def _fix(key: ConfigKey, value: object, origin: str) -> str:
    """Return the nearest valid setting, written the way its source is."""
    better = _better(key, value)
    if better is None:
        return ""
    if origin == "MODEL":
        return better
    if origin.startswith("FORGE_"):
        return f"{origin}={better}"
    if key.name == "precision" and origin.startswith("--"):
        return f"--{better}"
    if origin.startswith("--"):
        return f"{key.flag} {better}"
    return f"write {key.name}: {better} in {origin}"


def _better(key: ConfigKey, value: object) -> str | None:
    if key.choices:
        return nearest(str(value).lower(), key.choices) or str(key.default)
    if key.kind == "str":
        return key.pattern.example if key.pattern else None
    if key.kind == "bool":
        return str(key.default).lower()
    try:
        number = float(str(value))
    except ValueError:
        number = float("nan")
    if key.least is not None and number < key.least and not key.above:
        return f"{key.least:g}"
    if key.most is not None and number > key.most:
        return f"{key.most:g}"
    return None if key.default is None else str(key.default)


def _shown(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    text = value if isinstance(value, str) else repr(value)
    text = text if text else "empty"
    return text if len(text) <= 60 else f"{text[:57]}..."
