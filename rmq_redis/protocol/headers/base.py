"""Header fields (extFields): text on the wire, typed structs here, one per command and direction.

Java names a field's type in its header class; the wire has only text, and real clients mix strings, bare numbers and
bare booleans in one header. Decoding therefore first tries the strict and fast way and, where that fails, brings every
value to text and converts it as a Java server would.

Source: RocketMQ 5.3 ``remoting/protocol/header/**``, ``RemotingCommand.decodeCommandCustomHeader``.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Annotated, Any, TypeVar, get_args, get_type_hints

import msgspec

from ...errors import LocalProtocolError, RemoteProtocolError

Int32 = Annotated[int, msgspec.Meta(ge=-(2**31), le=2**31 - 1)]
Int64 = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]


class Header(msgspec.Struct, rename="camel"):
    """Base of all typed headers. A field that is None is not written."""


H = TypeVar("H", bound=Header)
_decoders: dict[type[Header], msgspec.json.Decoder[Any]] = {}
_encoders: dict[type[Header], Callable[[Header], dict[str, str]]] = {}
_kinds: dict[type[Header], dict[str, type]] = {}


def fields_of_json(raw: bytes | msgspec.Raw) -> dict[str, str]:
    """extFields of a JSON header as text: numbers and booleans become text, nulls are left out.

    Raises:
        RemoteProtocolError: not an object, or a value is itself an object or list.
    """
    data = loads_lenient(bytes(raw))
    if data is None:
        return {}
    if not isinstance(data, dict):
        raise RemoteProtocolError(f"extFields must be an object, got {type(data).__name__}")
    fields: dict[str, str] = {}
    for key, value in data.items():
        if isinstance(value, str):
            fields[key] = value
        elif isinstance(value, bool):
            fields[key] = "true" if value else "false"
        elif isinstance(value, int | float):
            fields[key] = repr(value)
        elif value is not None:
            raise RemoteProtocolError(f"extFields {key[:80]!r} must be plain text, got {type(value).__name__}")
    return fields


def loads_lenient(data: bytes) -> Any:
    """Parses JSON, raw control characters inside strings allowed (not every client's writer escapes U+0001).

    Raises:
        RemoteProtocolError: not JSON; also what Python's parser reports as too deep or as too long a number.
    """
    try:
        return json.loads(data.decode("utf-8"), strict=False)
    except (ValueError, RecursionError) as error:
        raise RemoteProtocolError(f"malformed JSON: {error}") from None


def without_nulls(item: dict[str, Any]) -> dict[str, Any]:
    """A JSON object without its nulls: in RocketMQ they mean the same as an absent field."""
    return {key: value for key, value in item.items() if value is not None}


def decode_header(header_type: type[H], fields: bytes | msgspec.Raw | dict[str, str] | None) -> H:
    """Header fields (raw JSON, or text by name) as a typed header. See ``RemotingCommand.header``."""
    if fields is None:
        fields = {}
    if type(fields) is not dict:
        decoder = _decoders.get(header_type)
        if decoder is None:
            decoder = _decoders[header_type] = msgspec.json.Decoder(header_type, strict=False)
        try:
            return decoder.decode(fields)  # type: ignore[arg-type, no-any-return]
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            fields = fields_of_json(fields)  # type: ignore[arg-type]
    return _decode_text(header_type, fields)


def _decode_text(header_type: type[H], fields: dict[str, str]) -> H:
    kinds = _kinds.get(header_type)
    if kinds is None:
        kinds = _kinds[header_type] = _field_kinds(header_type)
    values: dict[str, Any] = {}
    for name, kind in kinds.items():
        text = fields.get(name)
        if text is None:
            continue
        if kind is bool:
            values[name] = text.lower() in ("true", "1")
        elif kind is int:
            try:
                values[name] = int(text) if len(text) <= 20 else text
            except ValueError:
                values[name] = text
        else:
            values[name] = text
    try:
        return msgspec.convert(values, header_type)
    except (msgspec.ValidationError, UnicodeEncodeError) as error:
        raise RemoteProtocolError(f"header {header_type.__name__}: {error}") from None


def _field_kinds(header_type: type[Header]) -> dict[str, type]:
    hints = get_type_hints(header_type)
    wire_names = {f.name: f.encode_name for f in msgspec.structs.fields(header_type)}
    kinds: dict[str, type] = {}
    for name, wire_name in wire_names.items():
        hint = hints[name]
        options = get_args(hint) if type(None) in get_args(hint) else (hint,)
        kinds[wire_name] = next(option for option in options if option is not type(None))
    return kinds


def encode_header(header: Header) -> dict[str, str]:
    """A typed header as wire text: ``true``/``false``, decimal numbers; None is left out."""
    encoder = _encoders.get(type(header))
    if encoder is None:
        encoder = _encoders[type(header)] = _make_encoder(type(header))
    return encoder(header)


def _make_encoder(header_type: type[Header]) -> Callable[[Header], dict[str, str]]:
    pairs = [(f.name, f.encode_name) for f in msgspec.structs.fields(header_type)]

    def encode(header: Header) -> dict[str, str]:
        fields: dict[str, str] = {}
        for name, wire_name in pairs:
            value = getattr(header, name)
            if value is None:
                continue
            if value is True:
                fields[wire_name] = "true"
            elif value is False:
                fields[wire_name] = "false"
            elif isinstance(value, str):
                fields[wire_name] = value
            elif isinstance(value, int):
                fields[wire_name] = int.__repr__(value)
            else:
                raise LocalProtocolError(f"header field {wire_name} cannot carry {value!r}")
        return fields

    return encode
