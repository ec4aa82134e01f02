"""Groups of options: a parameter of a command that is a dataclass stands for an option per field."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import MISSING, dataclass, fields, is_dataclass
from typing import Annotated, Any, TypeVar, get_args, get_origin, get_type_hints

import typer

from .options import option

R = TypeVar("R")


@dataclass(frozen=True)
class Settings:
    """Marks a parameter that is a configuration class: ``config: Annotated[BrokerConfig, Settings(ALIASES)]``.

    Its fields become options with the help text, the default and the environment variable of the setting.

    Attributes:
        aliases: further flags by setting name. These settings come first in the help; the others are "Tuning".
    """

    aliases: Mapping[str, tuple[str, ...]]


def with_option_groups(command: Callable[..., R]) -> Callable[..., R | None]:
    """Gives typer a function with one parameter per option, which calls ``command`` with its dataclasses.

    A command with subcommands takes a ``context: typer.Context``; it is not called if a subcommand follows.
    """
    hints = get_type_hints(command, include_extras=True)
    parameters: list[inspect.Parameter] = []
    groups: dict[str, Callable[[dict[str, Any]], Any]] = {}
    for parameter in inspect.signature(command).parameters.values():
        hint = hints[parameter.name]
        kind, *marks = get_args(hint) if get_origin(hint) is Annotated else (hint,)
        if not is_dataclass(kind):
            parameters.append(parameter.replace(annotation=hint, kind=inspect.Parameter.KEYWORD_ONLY))
        elif marks:
            parameters += _setting_parameters(kind, marks[0].aliases)
            groups[parameter.name] = functools.partial(_settings_from, kind)
        else:
            parameters += _field_parameters(kind)
            groups[parameter.name] = functools.partial(_group_from, kind)

    def run(**values: Any) -> R | None:
        if getattr(values.get("context"), "invoked_subcommand", None):
            return None
        made = {name: make(values) for name, make in groups.items()}
        return command(**values, **made)

    functools.update_wrapper(run, command)
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    return run


def _group_from(kind: Any, values: dict[str, Any]) -> Any:
    """The dataclass, from its fields in ``values``, which are taken out."""
    return kind(**{field.name: values.pop(field.name) for field in fields(kind)})


def _field_parameters(kind: Any) -> Iterator[inspect.Parameter]:
    hints = get_type_hints(kind, include_extras=True)
    for field in fields(kind):
        default = inspect.Parameter.empty if field.default is MISSING else field.default
        yield _parameter(field.name, hints[field.name], default)


def _settings_from(kind: Any, values: dict[str, Any]) -> Any:
    booleans = _booleans(kind)
    given = {field.name: values.pop(field.name) for field in fields(kind)}
    return kind(**{name: _boolean(name, value) if name in booleans else value for name, value in given.items()})


def _setting_parameters(kind: Any, aliases: Mapping[str, tuple[str, ...]]) -> Iterator[inspect.Parameter]:
    hints = get_type_hints(kind)
    booleans = _booleans(kind)
    by_name = {field.name: field for field in fields(kind)}
    for name in dict.fromkeys([*aliases, *by_name]):
        field = by_name[name]
        information = option(
            *aliases.get(name, ()),
            "--" + name.replace("_", "-"),
            help=field.metadata["help"],
            setting=name,
            show_default=field.default != "",
            metavar="true|false" if name in booleans else None,
            rich_help_panel=None if name in aliases else "Tuning",
        )
        # A pair of flags, --x/--no-x, would be too wide for the help.
        default = str(field.default).lower() if name in booleans else field.default
        yield _parameter(name, Annotated[str if name in booleans else hints[name], information], default)


def _booleans(kind: Any) -> set[str]:
    return {name for name, hint in get_type_hints(kind).items() if hint is bool}


def _boolean(name: str, text: str) -> bool:
    if text.lower() in ("1", "true", "yes", "on"):
        return True
    if text.lower() in ("0", "false", "no", "off"):
        return False
    raise typer.BadParameter(f"{text!r}: give true or false", param_hint="--" + name.replace("_", "-"))


def _parameter(name: str, annotation: Any, default: Any) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, annotation=annotation, default=default)
