"""The length-prefixed frame: bytes <-> RemotingCommand.

Frame, big-endian: int32 length of all that follows | uint8 serialize type | uint24 header length | header | body.
Source: RocketMQ 5.3 ``RemotingCommand``, ``RocketMQSerializable``, ``NettyDecoder`` (16 MiB, the length word included).
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

import msgspec

from ..codes import LanguageCode
from ..errors import LocalProtocolError, RemoteProtocolError
from .command import RemotingCommand, SerializeType
from .headers.base import Int32, loads_lenient, without_nulls

MAX_FRAME_BYTES = 16 * 1024 * 1024
"""Largest frame, the length word included."""
LARGE_FRAME_BYTES = 4096
"""From this size on a decoder reports a frame to ``on_large``."""
MAX_HEADER_BYTES = 1024 * 1024
"""Largest header. Apache's longest, the ids of a batch, has some 100 KB."""
_MAX_LENIENT_HEADER_BYTES = 256 * 1024
"""Largest header that is not standard JSON: it takes a slower parser."""
_MAX_FIELDS = 1000
"""Fields of a header in the binary form."""

_LANGUAGE_BY_NAME = {language.name: int(language) for language in LanguageCode}
_LANGUAGE_NAMES = {int(language): language.name for language in LanguageCode}
_BINARY_HEAD = struct.Struct(">hBhiii")


_NO_FIELDS = msgspec.Raw()


class _JsonHeader(msgspec.Struct):
    code: Int32
    opaque: Int32 = 0
    flag: Int32 = 0
    version: Int32 = 0
    language: str | int | None = None
    remark: str | None = None
    extFields: msgspec.Raw = _NO_FIELDS  # noqa: N815  (wire name)


_json_header = msgspec.json.Decoder(_JsonHeader)
_encode_json = msgspec.json.Encoder().encode


def take_command(buffer: bytearray, max_frame_bytes: int = MAX_FRAME_BYTES) -> RemotingCommand | None:
    """Takes the next whole command off the front of ``buffer``, or returns None: read more bytes.

    Raises:
        RemoteProtocolError: the peer broke the format and its position is lost; close the connection.
    """
    if len(buffer) < 4:
        return None
    end = 4 + _frame_length(buffer, 0, max_frame_bytes)
    if len(buffer) < end:
        return None
    frame = bytes(buffer[:end])
    del buffer[:end]
    return decode_command(frame, 0, end)


class CommandDecoder:
    """Cuts a byte stream into commands, without copying what arrives whole.

    Memory held is what the peer really sent of an unfinished frame, never what its length field claims.
    """

    __slots__ = ("_buffer", "_max_frame_bytes", "_on_large", "_wanted")

    def __init__(
        self,
        max_frame_bytes: int = MAX_FRAME_BYTES,
        on_large: Callable[[RemotingCommand, int], None] | None = None,
    ) -> None:
        """
        Args:
            on_large: called with each command whose frame has at least ``LARGE_FRAME_BYTES``, and that size.
        """
        self._max_frame_bytes = max_frame_bytes
        self._on_large = on_large
        self._buffer = bytearray()
        self._wanted = 0

    @property
    def pending_bytes(self) -> int:
        """Bytes received of a frame that is not complete."""
        return len(self._buffer)

    def discard(self) -> None:
        """Frees what has arrived of a frame that will not be completed."""
        self._buffer.clear()

    def feed(self, data: bytes, commands: list[RemotingCommand]) -> None:
        """Appends the commands that ``data`` completes to ``commands``.

        Raises:
            RemoteProtocolError: as ``take_command``; what came before the broken frame is in ``commands``.
        """
        if self._buffer:
            self._buffer += data
            if len(self._buffer) < self._wanted:
                return
            data = bytes(self._buffer)
            self._buffer.clear()
        position, size = 0, len(data)
        while size - position >= 4:
            end = position + 4 + _frame_length(data, position, self._max_frame_bytes)
            if end > size:
                self._wanted = end - position
                self._buffer += data[position:]
                return
            command = decode_command(data, position, end)
            commands.append(command)
            if end - position >= LARGE_FRAME_BYTES and self._on_large:
                self._on_large(command, end - position)
            position = end
        if position < size:
            self._wanted = 4
            self._buffer += data[position:]


def _frame_length(data: bytes | bytearray, position: int, max_frame_bytes: int) -> int:
    length = int.from_bytes(data[position : position + 4], "big", signed=True)
    if not 4 <= length <= max_frame_bytes - 4:
        raise RemoteProtocolError(f"frame of {length} bytes, expected 4..{max_frame_bytes - 4}")
    return length


def decode_command(data: bytes, start: int, end: int) -> RemotingCommand:
    """Decodes the whole frame at ``data[start:end]``, its length word included.

    Raises:
        RemoteProtocolError: header longer than the frame, unknown serialize type, unreadable header.
    """
    serialize_type = data[start + 4]
    header_start = start + 8
    header_length = int.from_bytes(data[start + 5 : header_start], "big")
    header_end = header_start + header_length
    if header_end > end:
        raise RemoteProtocolError(f"header of {header_length} bytes in a frame of {end - start - 4}")
    if header_length > MAX_HEADER_BYTES:
        raise RemoteProtocolError(f"header of {header_length} bytes, at most {MAX_HEADER_BYTES} are allowed")
    if serialize_type == 0:
        return _decode_json(data[header_start:header_end], data[header_end:end])
    if serialize_type == 1:
        return _decode_binary(data[header_start:header_end], data[header_end:end])
    raise RemoteProtocolError(f"serialize type {serialize_type}, expected 0 (JSON) or 1 (ROCKETMQ)")


def _decode_json(text: bytes, body: bytes) -> RemotingCommand:
    try:
        header = _json_header.decode(text)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        header = _decode_json_lenient(text)
    language = header.language
    if type(language) is str:
        language = _LANGUAGE_BY_NAME.get(language, LanguageCode.OTHER)
    elif type(language) is not int:
        language = LanguageCode.OTHER
    return RemotingCommand(
        code=header.code,
        opaque=header.opaque,
        flag=header.flag,
        language=language,
        version=header.version,
        remark=header.remark,
        fields=None if header.extFields is _NO_FIELDS else header.extFields,
        body=body,
    )


def _decode_json_lenient(text: bytes) -> _JsonHeader:
    if len(text) > _MAX_LENIENT_HEADER_BYTES:
        raise RemoteProtocolError(f"malformed header of {len(text)} bytes")
    data = loads_lenient(text)
    if not isinstance(data, dict):
        raise RemoteProtocolError(f"header must be a JSON object, got {type(data).__name__}")
    data = without_nulls(data)
    ext_fields: Any = data.pop("extFields", None)
    try:
        header = msgspec.convert(data, _JsonHeader, strict=False)
        if header.remark:  # it is only shown: half of a surrogate pair is no reason to close
            header.remark = header.remark.encode(errors="replace").decode()
        if ext_fields is not None:
            header.extFields = msgspec.Raw(_encode_json(ext_fields))
    except (msgspec.MsgspecError, UnicodeError, RecursionError, TypeError, OverflowError, ValueError) as error:
        raise RemoteProtocolError(f"malformed header: {error}") from None
    return header


def _decode_binary(header: bytes, body: bytes) -> RemotingCommand:
    try:
        code, language, version, opaque, flag, remark_length = _BINARY_HEAD.unpack_from(header)
        position = _BINARY_HEAD.size
        remark, position = _take_text(header, position, remark_length)
        (fields_length,) = struct.unpack_from(">i", header, position)
        position += 4
        if fields_length < 0 or position + fields_length != len(header):
            raise RemoteProtocolError(
                f"binary header announces {fields_length} bytes of fields, has {len(header) - position}"
            )
        fields: dict[str, str] = {}
        count = 0
        while position < len(header):
            count += 1
            if count > _MAX_FIELDS:
                raise RemoteProtocolError(f"binary header with more than {_MAX_FIELDS} fields")
            (key_length,) = struct.unpack_from(">h", header, position)
            key, position = _take_text(header, position + 2, key_length)
            (value_length,) = struct.unpack_from(">i", header, position)
            value, position = _take_text(header, position + 4, value_length)
            if value:  # an empty value and null look the same; Java reads null
                fields[key] = value
    except (struct.error, UnicodeDecodeError) as error:
        raise RemoteProtocolError(f"malformed binary header: {error}") from None
    return RemotingCommand(
        code=code,
        opaque=opaque,
        flag=flag,
        language=language if language in _LANGUAGE_NAMES else LanguageCode.OTHER,
        version=version,
        remark=remark or None,
        fields=fields,
        body=body,
        serialize_type=SerializeType.ROCKETMQ,
    )


def _take_text(data: bytes, position: int, length: int) -> tuple[str, int]:
    end = position + length
    if length < 0 or end > len(data):
        raise RemoteProtocolError(f"binary header: text of {length} bytes where {len(data) - position} are left")
    return data[position:end].decode(), end


def encode_command(command: RemotingCommand, max_frame_bytes: int = MAX_FRAME_BYTES) -> bytes:
    """A command as one frame, in its ``serialize_type``.

    Raises:
        LocalProtocolError: larger than a frame may be, or a value that the serialization cannot carry.
    """
    serialize_type = int(command.serialize_type)
    try:
        header = _encode_binary_header(command) if serialize_type else _encode_json_header(command)
    except (struct.error, UnicodeEncodeError, OverflowError) as error:
        raise LocalProtocolError(f"command {command.code} cannot be encoded: {error}") from None
    return encode_frame(header, command.body, serialize_type, max_frame_bytes)


def encode_frame(
    header: bytes, body: bytes | bytearray, serialize_type: int = 0, max_frame_bytes: int = MAX_FRAME_BYTES
) -> bytes:
    """A frame around a header that is serialized already (JSON by default)."""
    length = 4 + len(header) + len(body)
    if length > max_frame_bytes - 4 or len(header) > 0xFFFFFF:
        raise LocalProtocolError(f"frame of {length} bytes, at most {max_frame_bytes - 4} are allowed")
    return b"".join(((length << 32 | serialize_type << 24 | len(header)).to_bytes(8, "big"), header, body))


def _encode_json_header(command: RemotingCommand) -> bytes:
    header: dict[str, Any] = {"code": command.code}
    fields = command.fields
    if fields is not None:
        header["extFields"] = fields
    header["flag"] = command.flag
    header["language"] = _LANGUAGE_NAMES.get(command.language, "OTHER")
    header["opaque"] = command.opaque
    if command.remark is not None:
        header["remark"] = command.remark
    header["serializeTypeCurrentRPC"] = "JSON"
    header["version"] = command.version
    return _encode_json(header)


def _encode_binary_header(command: RemotingCommand) -> bytes:
    if not -0x8000 <= command.code <= 0x7FFF:
        raise LocalProtocolError(f"code {command.code} does not fit the binary header; use JSON")
    remark = (command.remark or "").encode()
    parts: list[bytes] = []
    for key, value in command.ext_fields.items():
        name, text = key.encode(), value.encode()
        parts += (len(name).to_bytes(2, "big", signed=True), name, len(text).to_bytes(4, "big"), text)
    fields = b"".join(parts)
    head = _BINARY_HEAD.pack(command.code, command.language, command.version, command.opaque, command.flag, len(remark))
    return b"".join((head, remark, len(fields).to_bytes(4, "big"), fields))
