"""Values of settings: declared with their help text, checked by type, read from the environment."""

from __future__ import annotations

import dataclasses
import difflib
import inspect
import math
import os
from collections.abc import Iterable, Mapping
from enum import StrEnum
from typing import Any, TypeVar, get_args, get_type_hints

from ..errors import ConfigError

ENV_PREFIX = "RMQ_REDIS_"

C = TypeVar("C")
E = TypeVar("E", bound=StrEnum)


def setting(default: Any, help: str) -> Any:
    """A dataclass field with the text that the CLI and the docs show."""
    return dataclasses.field(default=default, metadata={"help": help})


def env_name(name: str) -> str:
    """The environment variable of a setting."""
    return ENV_PREFIX + name.upper()


def check_settings(config_type: type, given: Mapping[str, Any], owner: type | None = None) -> None:
    """Raises ConfigError for a setting that ``config_type`` does not have, or a value of another type than its own.

    Args:
        owner: the class whose constructor takes the settings among options of its own.
    """
    hints = get_type_hints(config_type)
    for name, value in given.items():
        if name in hints:
            check_value(name, value, hints[name])
        elif owner:
            known = [*hints, *inspect.signature(owner).parameters]
            raise unknown_name(f"{owner.__name__} has no option", name, known)
        else:
            raise unknown_name(f"{config_type.__name__} has no setting", name, hints)


def unknown_name(what: str, name: str, known: Iterable[str]) -> ConfigError:
    """The error for a keyword argument that does not exist, with the nearest one that does."""
    nearest = difflib.get_close_matches(name, list(known), 1)
    return ConfigError(f"{what} {name!r}{f'; did you mean {nearest[0]}?' if nearest else ''}")


def check_value(name: str, value: object, kind: Any) -> None:
    """Raises ConfigError for a value of another type than ``kind``, which is checked if it is int, float, bool or str.

    Args:
        kind: also one with ``| None``.
    """
    kinds: tuple[type, ...] = get_args(kind) or (kind,)
    if not all(one in (int, float, bool, str, type(None)) for one in kinds):
        return
    if isinstance(value, bool) and bool not in kinds:
        fits = False
    else:
        fits = isinstance(value, (*kinds, int) if float in kinds else kinds)
    if not fits:
        wanted = " or ".join(_article(one) for one in kinds if one is not type(None))
        raise ConfigError(f"{name}={value!r:.80} is {_article(type(value))}, not {wanted}")
    if isinstance(value, float) and math.isnan(value):
        raise ConfigError(f"{name}={value} is not a number")


def _article(kind: type) -> str:
    if kind is type(None):
        return "None"
    return f"a{'n' if kind.__name__[0] in 'aeiou' else ''} {kind.__name__}"


def choice(kind: type[E], setting: str, value: str) -> E:
    """The member of an enumeration that a setting names. Raises ConfigError, which lists all members."""
    try:
        return kind(value)
    except ValueError:
        known = ", ".join(kind)
        raise ConfigError(f"{setting}={value!r} is unknown; there are: {known}") from None


def from_env(config_type: type[C], environ: Mapping[str, str] | None = None, **given: Any) -> C:
    """A configuration from ``given`` (values of None count as not given), the environment and the defaults.

    Raises:
        ConfigError: a variable whose text is not of its setting's type; the text names it.
    """
    environ = os.environ if environ is None else environ
    hints = get_type_hints(config_type)
    names = [field.name for field in dataclasses.fields(config_type)]  # type: ignore[arg-type]
    unknown = given.keys() - set(names)
    if unknown:
        raise ConfigError(f"unknown settings of {config_type.__name__}: {', '.join(sorted(unknown))}")
    values = {name: value for name, value in given.items() if value is not None}
    for name in names:
        text = environ.get(env_name(name))
        if text and name not in values:
            values[name] = _parse(env_name(name), text, hints[name])
    return config_type(**values)


def _parse(variable: str, text: str, kind: Any) -> Any:
    if kind is bool:
        if text.lower() in ("1", "true", "yes", "on"):
            return True
        if text.lower() in ("0", "false", "no", "off"):
            return False
        raise ConfigError(f"{variable}={text!r} is not a yes or no; use true or false")
    try:
        return kind(text)
    except ValueError:
        raise ConfigError(f"{variable}={text!r} is not a{'n' if kind is int else ''} {kind.__name__}") from None
