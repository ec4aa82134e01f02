"""Puts interceptors around sends and handlers. Only what has interceptors goes through here."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Concatenate, ParamSpec, TypeVar

import pluggy

from ...errors import ConfigError, MessageRefusedError
from ...model import Message, MessageExt
from ...plugins.hookspecs import ClientContext
from ...plugins.interceptors import HANDLE_METHODS, SEND_METHODS, CallNext
from ...plugins.manager import named_objects

logger = logging.getLogger(__name__)


def check_interceptors(interceptors: Sequence[object], methods: Sequence[str]) -> tuple[object, ...]:
    """Those with one of ``methods``; others are for the other side.

    Raises:
        ConfigError: one with no method of an interceptor at all, or one that is a class.
    """
    for interceptor in interceptors:
        known = [name for name in (*SEND_METHODS, *HANDLE_METHODS) if callable(getattr(interceptor, name, None))]
        if not known or isinstance(interceptor, type):
            raise ConfigError(
                f"{interceptor!r} is no interceptor: it must be an object with some of the methods "
                f"{', '.join((*SEND_METHODS, *HANDLE_METHODS))}"
            )
    return tuple(i for i in interceptors if any(hasattr(i, name) for name in methods))


def named_and_given(
    given: Sequence[object], methods: Sequence[str], plugins: pluggy.PluginManager, context: ClientContext
) -> tuple[object, ...]:
    """The interceptors that the setting ``plugin_interceptors`` names, then those given; as ``check_interceptors``."""
    setting = "plugin_interceptors"
    named = named_objects(
        "register_interceptors", setting, context.config.plugin_interceptors, plugins, context=context
    )
    return check_interceptors([*(offered for _, offered in named), *given], methods)


async def _call(method: Callable[..., Any], *arguments: Any) -> Any:
    outcome = method(*arguments)
    return await outcome if inspect.isawaitable(outcome) else outcome


async def _observe(interceptor: object, name: str, message: Message | MessageExt, *arguments: Any) -> Any:
    """What the method returned; None when there is none, or when it raised, which is logged."""
    method = getattr(interceptor, name, None)
    if method is None:
        return None
    try:
        return await _call(method, message, *arguments)
    except MessageRefusedError:
        if name == "before_send":
            raise
        logger.exception("%s of %r: refusing is for before_send only; the message goes on", name, interceptor)
    except Exception:
        logger.exception("%s of %r failed; the message goes on (topic %s)", name, interceptor, message.topic)
    return None


P = ParamSpec("P")
R = TypeVar("R")
Send = Callable[Concatenate[Sequence[Message], P], Awaitable[R]]


def intercepted_send(interceptors: Sequence[object], send: Send[P, R]) -> Send[P, R]:
    """``send(messages, ...)`` with the interceptors around it; without any, ``send`` itself.

    One message that an interceptor refuses refuses all.
    """
    if not interceptors:
        return send

    async def intercepted(messages: Sequence[Message], /, *args: P.args, **kwargs: P.kwargs) -> R:
        current = list(messages)
        asked: list[tuple[object, int]] = []
        result: R | None = None
        failure: BaseException | None = None
        try:
            for index in range(len(current)):
                for interceptor in interceptors:
                    asked.append((interceptor, index))
                    current[index] = await _before_send(interceptor, current[index])
            result = await send(current, *args, **kwargs)
        except BaseException as error:
            failure = error
            raise
        finally:
            for interceptor, index in reversed(asked):
                await _observe(interceptor, "after_send", current[index], result, failure)
        return result

    return intercepted


async def _before_send(interceptor: object, message: Message) -> Message:
    """The message to go on with."""
    changed = await _observe(interceptor, "before_send", message)
    if isinstance(changed, Message):
        return changed
    if changed is not None:
        logger.error("before_send of %r returned %r, which is no Message", interceptor, changed)
    return message


def intercepted_handler(interceptors: Sequence[object], handle: CallNext) -> CallNext:
    """``handle(message)`` with the interceptors around it: the first of the list is the outermost."""
    for interceptor in reversed(interceptors):
        handle = _around(interceptor, handle)
    return handle


def _around(interceptor: object, call_next: CallNext) -> CallNext:
    around = getattr(interceptor, "around_handle", None)

    async def handle(message: MessageExt) -> Any:
        changed = await _observe(interceptor, "before_handle", message)
        if isinstance(changed, MessageExt):
            message = changed
        elif changed is not None:
            logger.error("before_handle of %r returned %r, which is no MessageExt", interceptor, changed)
        result: Any = None
        failure: BaseException | None = None
        try:
            result = await (call_next(message) if around is None else _call(around, message, call_next))
        except BaseException as error:
            failure = error
            raise
        finally:
            await _observe(interceptor, "after_handle", message, result, failure)
        return result

    return handle
