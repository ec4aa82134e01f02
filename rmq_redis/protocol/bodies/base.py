"""What all JSON bodies have in common, and fastjson's habits: map keys that are numbers or whole objects are written
without quotes.

Reading is lenient (what real clients send, see ``decode_heartbeat``); writing is exact, because some clients cut the
text apart by hand. Source: RocketMQ 5.3 ``remoting/protocol/body/**``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any, Self

import msgspec

from ...errors import RemoteProtocolError
from ...model import MessageQueue
from ..headers.base import without_nulls

_MAX_DEPTH = 32
"""Far above any body of RocketMQ, and far below Python's limit of recursion."""
_NUMBER = re.compile(r"-?\d+(\.\d+)?([eE][-+]?\d+)?")
_SPACE = re.compile(r"[ \t\r\n]*")


class Body(msgspec.Struct, frozen=True, rename="camel"):
    """Base of the bodies that the roles exchange. Fields are written in their order; a field that is None is not."""

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """A body of this kind; a null counts as absent, an empty body as {}. Raises RemoteProtocolError."""
        body: Self = decode_struct(data or b"{}", cls)
        return body

    def items(self) -> Iterable[tuple[str, Any]]:
        """(wire name, value) of each field."""
        return zip(self.__struct_encode_fields__, (getattr(self, name) for name in self.__struct_fields__), strict=True)


def loads(data: bytes) -> Any:
    """Parses JSON or what fastjson writes. An integer key becomes an int, an object key a ``MessageQueue`` (or a tuple
    of its pairs when it is no queue).

    Raises:
        RemoteProtocolError: neither; nested more than 32 levels deep.
    """
    try:
        return msgspec.json.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        pass
    try:
        text = data.decode()
        value, position = _parse_value(text, _skip(text, 0), 0)
        position = _skip(text, position)
    except (ValueError, IndexError, RecursionError, OverflowError) as error:
        raise RemoteProtocolError(f"malformed JSON body: {error}") from None
    if position != len(text):
        raise RemoteProtocolError(f"malformed JSON body: {len(text) - position} characters after its end")
    return value


def _skip(text: str, position: int) -> int:
    match = _SPACE.match(text, position)
    return match.end() if match else position


def _parse_value(text: str, position: int, depth: int) -> tuple[Any, int]:
    if depth > _MAX_DEPTH:
        raise ValueError(f"nested more than {_MAX_DEPTH} levels deep")
    head = text[position]
    if head == '"':
        return _parse_string(text, position)
    if head == "{":
        return _parse_object(text, position + 1, depth)
    if head == "[":
        items: list[Any] = []
        position = _skip(text, position + 1)
        while text[position] != "]":
            value, position = _parse_value(text, position, depth + 1)
            items.append(value)
            position = _separator(text, position, "]")
        return items, position + 1
    for literal, value in (("true", True), ("false", False), ("null", None)):
        if text.startswith(literal, position):
            return value, position + len(literal)
    match = _NUMBER.match(text, position)
    if not match:
        raise ValueError(f"unexpected {head!r} at character {position}")
    return (float if match[1] or match[2] else int)(match[0]), match.end()


def _parse_string(text: str, position: int) -> tuple[str, int]:
    return json.decoder.scanstring(text, position + 1, False)  # type: ignore[attr-defined, no-any-return]


def _parse_object(text: str, position: int, depth: int) -> tuple[dict[Any, Any], int]:
    result: dict[Any, Any] = {}
    position = _skip(text, position)
    while text[position] != "}":
        key, position = _parse_value(text, position, depth + 1)
        if isinstance(key, dict):
            key = _queue_key(key)
        elif isinstance(key, list | float):
            raise ValueError(f"a key may not be a {type(key).__name__} (at character {position})")
        position = _skip(text, position)
        if text[position] != ":":
            raise ValueError(f"expected ':' at character {position}")
        result[key], position = _parse_value(text, _skip(text, position + 1), depth + 1)
        position = _separator(text, position, "}")
    return result, position + 1


def _separator(text: str, position: int, end: str) -> int:
    position = _skip(text, position)
    if text[position] == ",":
        position = _skip(text, position + 1)
        if text[position] == end:
            raise ValueError(f"expected a value at character {position}")
        return position
    if text[position] != end:
        raise ValueError(f"expected ',' or {end!r} at character {position}")
    return position


def _queue_key(key: dict[Any, Any]) -> Any:
    try:
        return msgspec.convert(key, MessageQueue)
    except msgspec.ValidationError:
        return tuple(sorted((str(name), str(value)) for name, value in key.items()))


def dumps(value: Any, *, quote_keys: bool = False) -> bytes:
    """Compact JSON as fastjson writes it: int keys bare (``quote_keys``: quoted), ``MessageQueue`` keys as objects.

    Non-ASCII is escaped. Structs are written by their wire names; None inside a dict is left out.
    """
    parts: list[str] = []
    _dump(value, parts, quote_keys)
    return "".join(parts).encode()


def _dump(value: Any, parts: list[str], quote_keys: bool) -> None:
    if isinstance(value, MessageQueue):
        parts.append(
            f'{{"brokerName":{json.dumps(value.broker_name)},"queueId":{value.queue_id},"topic":{json.dumps(value.topic)}}}'
        )
    elif isinstance(value, Mapping | Body):
        parts.append("{")
        first = True
        for key, item in value.items():
            if item is None:
                continue
            if not first:
                parts.append(",")
            first = False
            if isinstance(key, MessageQueue):
                _dump(key, parts, quote_keys)
            elif isinstance(key, int):
                parts.append(f'"{key}"' if quote_keys else str(int(key)))
            else:
                parts.append(json.dumps(key))
            parts.append(":")
            _dump(item, parts, quote_keys)
        parts.append("}")
    elif isinstance(value, msgspec.Struct):
        _dump(msgspec.to_builtins(value, str_keys=False), parts, quote_keys)
    elif isinstance(value, list | tuple | set | frozenset):
        parts.append("[")
        for index, item in enumerate(value):
            if index:
                parts.append(",")
            _dump(item, parts, quote_keys)
        parts.append("]")
    elif isinstance(value, bool) or value is None:
        parts.append({True: "true", False: "false", None: "null"}[value])
    elif isinstance(value, int):
        parts.append(int.__repr__(value))
    else:
        parts.append(json.dumps(value))


def convert(data: Any, kind: type[Any]) -> Any:
    """Parsed JSON as ``kind``, text taken for numbers where a client wrote it so.

    Raises:
        RemoteProtocolError: a field is missing or of another type; the text names it.
    """
    try:
        return msgspec.convert(data, kind, strict=False)
    except (msgspec.ValidationError, TypeError, ValueError, OverflowError, RecursionError) as error:
        raise RemoteProtocolError(f"body is not a {kind.__name__}: {error}") from None


def decode_struct(data: bytes, kind: type[Any]) -> Any:
    """A JSON body as ``kind``; nulls count as absent. Raises RemoteProtocolError as ``loads`` and ``convert``."""
    value = loads(data)
    if isinstance(value, dict):
        value = without_nulls(value)
    return convert(value, kind)


def object_body(data: bytes) -> dict[str, Any]:
    """A JSON object body; an empty body is {}. Raises RemoteProtocolError for anything else."""
    if not data:
        return {}
    value = loads(data)
    if not isinstance(value, dict):
        raise RemoteProtocolError(f"body must be a JSON object, got {type(value).__name__}")
    return value


def decode_queue_set(value: Any) -> list[MessageQueue]:
    """A list of message queues out of a parsed body. Raises RemoteProtocolError."""
    if value is None:
        return []
    queues: list[MessageQueue] = convert(value, list[MessageQueue])
    return queues
