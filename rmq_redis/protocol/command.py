"""RemotingCommand: one request or response, independent of how its header is serialized."""

from __future__ import annotations

from enum import IntEnum
from typing import TypeVar

import msgspec

from ..codes import CURRENT_VERSION, LanguageCode
from .headers.base import Header, decode_header, encode_header, fields_of_json

RESPONSE_FLAG = 1  # bit 0, ``RemotingCommand.RPC_TYPE``
ONEWAY_FLAG = 2  # bit 1, ``RemotingCommand.RPC_ONEWAY``

H = TypeVar("H", bound=Header)


class SerializeType(IntEnum):
    """How the header travels; the high byte of the header word."""

    JSON = 0
    ROCKETMQ = 1


class RemotingCommand(msgspec.Struct, kw_only=True, weakref=True):
    """A frame's content.

    Attributes:
        code: request code, or in a response the response code.
        opaque: the requester's id of this request; the response repeats it.
        flag: bit 0 response, bit 1 oneway.
        language: ``LanguageCode`` number of the sender (7, OTHER, for a name that we do not know).
        version: protocol version ordinal of the sender.
        fields: the header fields: raw JSON text as received, or a dict. Read them by ``header()`` or ``ext_fields``.
        body: the bytes after the header.
    """

    code: int
    opaque: int = 0
    flag: int = 0
    language: int = int(LanguageCode.PYTHON)
    version: int = CURRENT_VERSION
    remark: str | None = None
    fields: msgspec.Raw | dict[str, str] | None = None
    body: bytes = b""
    serialize_type: SerializeType = SerializeType.JSON

    @property
    def is_response(self) -> bool:
        return bool(self.flag & RESPONSE_FLAG)

    @property
    def is_oneway(self) -> bool:
        return bool(self.flag & ONEWAY_FLAG)

    @property
    def ext_fields(self) -> dict[str, str]:
        """The header fields as text, as RocketMQ types them.

        Raises:
            RemoteProtocolError: the fields are not an object of plain values.
        """
        if self.fields is None:
            return {}
        if not isinstance(self.fields, dict):
            self.fields = fields_of_json(self.fields)
        return self.fields

    def header(self, header_type: type[H]) -> H:
        """The header fields as the typed header of this command.

        Raises:
            RemoteProtocolError: a required field is missing or has a value of another type; the text names it.
        """
        return decode_header(header_type, self.fields)


def request(
    code: int, header: Header | None = None, body: bytes = b"", *, opaque: int = 0, oneway: bool = False
) -> RemotingCommand:
    """A request frame."""
    return RemotingCommand(
        code=code,
        opaque=opaque,
        flag=ONEWAY_FLAG if oneway else 0,
        fields=None if header is None else encode_header(header),
        body=body,
    )


def response(
    to: RemotingCommand, code: int = 0, header: Header | None = None, body: bytes = b"", *, remark: str | None = None
) -> RemotingCommand:
    """The response to ``to``: same opaque, same header serialization."""
    return RemotingCommand(
        code=code,
        opaque=to.opaque,
        flag=RESPONSE_FLAG,
        remark=remark,
        fields=None if header is None else encode_header(header),
        body=body,
        serialize_type=to.serialize_type,
    )
