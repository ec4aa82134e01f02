"""Values instead of bytes: how they become message bodies, and handlers that get them.

The body is the value alone, as JSON or MessagePack, and the user property ``contentType`` says which: any RocketMQ
client of any language can read and write it (Spring's clients set the same property).
"""

from __future__ import annotations

import inspect
import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from typing import Any, Protocol, TypeVar, overload

import msgspec

from ...errors import ConfigError, MessageDecodeError, MessageIllegalLocallyError
from ...model import PROPERTY_CONTENT_TYPE, Message, MessageExt, MessageQueue, SendResult, joined_keys
from ...plugins.hookspecs import QueueSelector

logger = logging.getLogger(__name__)

NO_VALUE: Any = object()
"""In the place of a type: the handler gets messages."""


V = TypeVar("V")

Undecodable = Callable[[MessageExt, MessageDecodeError], Any]
"""What is called with a message whose body cannot be decoded."""


class Serializer(Protocol):
    """Turns values into bodies and back.

    Attributes:
        content_type: what the property ``contentType`` says.
    """

    content_type: str

    def dumps(self, value: Any) -> bytes:
        """The body of a value. Raises TypeError or ValueError for what cannot be written."""

    def loads(self, body: bytes, kind: Any) -> Any:
        """The value of type ``kind`` (``Any``: whatever is there). Raises ValueError when the body has none."""


def _to_plain(value: Any) -> Any:
    """What msgspec cannot write: a pydantic model as its JSON-like content."""
    dump = getattr(value, "model_dump", None)
    if callable(dump):
        return dump(mode="json")
    raise TypeError(f"a value of type {type(value).__name__} cannot be serialized")


def _from_plain(kind: Any, value: Any) -> Any:
    """What msgspec cannot read: a pydantic model, anywhere inside a value."""
    validate = getattr(kind, "model_validate", None)
    if callable(validate):
        return validate(value)
    raise TypeError(f"a value of type {kind!r} cannot be read")


class JsonSerializer:
    """JSON: what every language reads. msgspec Structs, dataclasses, attrs classes, TypedDicts, pydantic models."""

    content_type = "application/json"

    def dumps(self, value: Any) -> bytes:
        return msgspec.json.encode(value, enc_hook=_to_plain)

    def loads(self, body: bytes, kind: Any) -> Any:
        validate = getattr(kind, "model_validate_json", None)
        if callable(validate):
            return validate(body)
        return msgspec.json.decode(body, type=kind, dec_hook=_from_plain)


class MsgpackSerializer:
    """MessagePack: smaller, and bytes stay bytes. The same types as JSON."""

    content_type = "application/msgpack"

    def dumps(self, value: Any) -> bytes:
        return msgspec.msgpack.encode(value, enc_hook=_to_plain)

    def loads(self, body: bytes, kind: Any) -> Any:
        return msgspec.msgpack.decode(body, type=kind, dec_hook=_from_plain)


SERIALIZERS: dict[str, Serializer] = {"json": JsonSerializer(), "msgpack": MsgpackSerializer()}
_BY_CONTENT_TYPE = {serializer.content_type: serializer for serializer in SERIALIZERS.values()} | {
    "application/x-msgpack": SERIALIZERS["msgpack"],
    "application/vnd.msgpack": SERIALIZERS["msgpack"],
    "text/json": SERIALIZERS["json"],
    "text/plain": SERIALIZERS["json"],  # what Spring's clients say of a JSON text that the user serialized
}


def serializer_of(serializer: str | Serializer) -> Serializer:
    """The serializer of a name, or the one that is given.

    Raises:
        ConfigError: neither.
    """
    if isinstance(serializer, str):
        found = SERIALIZERS.get(serializer)
        if found is None:
            raise ConfigError(f"serializer={serializer!r} is unknown; there are: {', '.join(SERIALIZERS)}")
        return found
    if all(hasattr(serializer, name) for name in ("content_type", "dumps", "loads")):
        return serializer
    raise ConfigError(f"{serializer!r} is no serializer: it must have content_type, dumps and loads")


def value_message(
    topic: str,
    value: Any,
    *,
    serializer: str | Serializer = "json",
    tags: str = "",
    keys: str | list[str] = "",
    properties: Mapping[str, str] | None = None,
    flag: int = 0,
) -> Message:
    """A message whose body is ``value``, with its content type; for batches, delays, transactions and requests.

    Args:
        tags: as for ``Message``.
        keys: as for ``Message``.
        properties: as for ``Message``.
        flag: as for ``Message``.

    Raises:
        MessageIllegalLocallyError: the value cannot be serialized.
        ConfigError: no such serializer.
    """
    chosen = serializer_of(serializer)
    try:
        body = chosen.dumps(value)
    except (TypeError, ValueError) as error:  # msgspec.ValidationError is a ValueError
        raise MessageIllegalLocallyError(f"a value for topic {topic!r} cannot be serialized: {error}") from error
    all_properties = {PROPERTY_CONTENT_TYPE: chosen.content_type, **(properties or {})}
    return Message(topic, body, tags=tags, keys=keys, properties=all_properties, flag=flag)


@overload
def decode_value(message: MessageExt, kind: type[V], default: str | Serializer = "json") -> V: ...


@overload
def decode_value(message: MessageExt, kind: Any = Any, default: str | Serializer = "json") -> Any: ...


def decode_value(message: MessageExt, kind: Any = Any, default: str | Serializer = "json") -> Any:
    """The value in a message, read by its content type; ``default`` when it has none.

    Raises:
        MessageDecodeError: the body is no value of that type, or its content type is unknown.
    """
    if message.body_error is not None:
        raise MessageDecodeError(f"message {message.msg_id} of {message.topic}: {message.body_error}")
    serializer = serializer_of(default)
    given = message.properties.get(PROPERTY_CONTENT_TYPE, "")
    content_type = given.partition(";")[0].strip().lower()
    if content_type and content_type != serializer.content_type:
        known = SERIALIZERS["json"] if content_type.endswith("+json") else _BY_CONTENT_TYPE.get(content_type)
        if known is None:
            raise MessageDecodeError(f"message {message.msg_id} of {message.topic}: unknown content type {given!r}")
        serializer = known
    try:
        return serializer.loads(message.body, kind)
    except (TypeError, ValueError, msgspec.MsgspecError) as error:
        name = getattr(kind, "__name__", str(kind))
        raise MessageDecodeError(
            f"message {message.msg_id} of {message.topic}: its {len(message.body)} bytes are no {name} as "
            f"{serializer.content_type}: {error}"
        ) from error


def typed_handler(
    function: Callable[..., Any],
    kind: Any,
    *,
    default: str | Serializer = "json",
    on_undecodable: Undecodable | None = None,
) -> Callable[[MessageExt], Any]:
    """A handler that calls ``function(value)`` or, if it takes two arguments, ``function(value, message)``.

    Args:
        on_undecodable: called with a message whose body cannot be decoded; its result counts as the handler's. Without
            it the error does: the message comes again later and ends in the dead letters.

    Raises:
        ConfigError: the function takes no or too many arguments, or the serializer is unknown.
    """
    serializer = serializer_of(default)
    with_message = _takes_message(function)

    def decode(message: MessageExt) -> tuple[Any, ...]:
        value = decode_value(message, kind, serializer)
        return (value, message) if with_message else (value,)

    call = getattr(function, "__call__", None)  # noqa: B004  (an object with an async __call__)
    if inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(call):

        async def handle_async(message: MessageExt) -> Any:
            try:
                arguments = decode(message)
            except MessageDecodeError as error:
                if on_undecodable is None:
                    raise
                outcome = on_undecodable(message, error)
                return await outcome if inspect.isawaitable(outcome) else outcome
            return await function(*arguments)

        return handle_async

    def handle(message: MessageExt) -> Any:
        try:
            arguments = decode(message)
        except MessageDecodeError as error:
            if on_undecodable is None:
                raise
            return on_undecodable(message, error)
        return function(*arguments)

    return handle


def _takes_message(function: Callable[..., Any]) -> bool:
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # a builtin that does not tell
        return False
    for arguments, with_message in ((("value", "message"), True), (("value",), False)):
        try:
            signature.bind(*arguments)
        except TypeError:
            continue
        return with_message
    raise ConfigError(f"handler {function!r} must take (value) or (value, message), not {signature}")


class ValueSender(ABC):
    """``send_value`` for a producer."""

    _serializer: Serializer

    @abstractmethod
    async def send(
        self,
        message: Message,
        *,
        queue: MessageQueue | None = None,
        key: str | None = None,
        selector: QueueSelector | None = None,
        timeout_s: float | timedelta | None = None,
    ) -> SendResult:
        """Sends a message."""

    async def send_value(
        self,
        topic: str,
        value: Any,
        *,
        tags: str = "",
        keys: str | Sequence[str] = "",
        properties: dict[str, str] | None = None,
        queue: MessageQueue | None = None,
        key: str | None = None,
        selector: QueueSelector | None = None,
        timeout_s: float | timedelta | None = None,
    ) -> SendResult:
        """Sends a value: anything that the producer's ``serializer`` can write. See ``value_message`` for a Message.

        Raises:
            MessageIllegalLocallyError: the value cannot be serialized.
            RmqError: as ``send``.
        """
        keys = keys if isinstance(keys, str) else joined_keys(keys)
        message = value_message(topic, value, serializer=self._serializer, tags=tags, keys=keys, properties=properties)
        return await self.send(message, queue=queue, key=key, selector=selector, timeout_s=timeout_s)
