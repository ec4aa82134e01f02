"""The property string of a message, ``key \\x01 value \\x02 ...``; the names of properties are in ``model``.

Source: RocketMQ 5.3 ``MessageDecoder.messageProperties2String``, ``string2messageProperties``.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping

from ..errors import LocalProtocolError

NAME_VALUE_SEPARATOR = "\x01"
PROPERTY_SEPARATOR = "\x02"


def encode_properties(properties: Mapping[str, str]) -> str:
    """Pairs as ``key \\x01 value \\x02 ...``. Pairs with an empty value are left out, as every reader drops them.

    Raises:
        LocalProtocolError: a key or value contains one of the separators, or a key is empty.
    """
    text = "".join([f"{key}\x01{value}\x02" for key, value in properties.items() if value])
    if text.count("\x01") != text.count("\x02") or text.count("\x01") != sum(1 for v in properties.values() if v):
        bad = next(k for k, v in properties.items() if "\x01" in k + v or "\x02" in k + v)
        raise LocalProtocolError(f"property {bad!r} contains U+0001 or U+0002, the separators of the property string")
    if "" in properties:
        raise LocalProtocolError("a property has an empty name")
    return text


def properties_within(properties: Mapping[str, str], max_bytes: int, droppable: Iterable[str]) -> dict[str, str]:
    """Properties that take at most ``max_bytes`` of UTF-8, if leaving out ``droppable`` ones does it.

    Args:
        droppable: names in the order in which they are left out, only as many as it takes.
    """
    left = dict(properties)
    for name in droppable:
        if name in left and len(encode_properties(left).encode()) > max_bytes:
            del left[name]
    return left


def decode_properties(text: str) -> dict[str, str]:
    """The property string as a dict. Malformed pairs are dropped, as in every RocketMQ client."""
    properties: dict[str, str] = {}
    for pair in text.split(PROPERTY_SEPARATOR):
        key, separator, value = pair.partition(NAME_VALUE_SEPARATOR)
        if separator and value:
            properties[key] = value
    return properties


def find_property(text: str, key: str) -> str | None:
    """One property's value without parsing the others; the last one wins, as in ``decode_properties``."""
    marker = key + NAME_VALUE_SEPARATOR
    position = text.rfind(marker)
    while position > 0 and text[position - 1] != PROPERTY_SEPARATOR:
        position = text.rfind(marker, 0, position)
    if position < 0:
        return None
    start = position + len(marker)
    end = text.find(PROPERTY_SEPARATOR, start)
    return text[start:] if end < 0 else text[start:end]


def remove_property(text: str, key: str) -> str:
    """The property string without ``key``."""
    marker = key + NAME_VALUE_SEPARATOR
    if marker not in text:
        return text
    return "".join(
        [pair + PROPERTY_SEPARATOR for pair in text.split(PROPERTY_SEPARATOR) if pair and not pair.startswith(marker)]
    )


def tags_code(tags: str | None) -> int:
    """Java's ``String.hashCode`` of a tag, signed 32 bit; 0 without one. Brokers filter by it."""
    if not tags:
        return 0
    value = 0
    for unit in _utf16_units(tags):
        value = (31 * value + unit) & 0xFFFFFFFF
    return value - (1 << 32) if value & 0x80000000 else value


def _utf16_units(text: str) -> Iterable[int]:
    if text.isascii():
        return text.encode()
    data = text.encode("utf-16-be", "surrogatepass")
    return (unit for (unit,) in struct.iter_unpack(">H", data))
