"""A broker's registration with the NameServer. Source: RocketMQ 5.3 ``RegisterBrokerBody``."""

from __future__ import annotations

import struct
import zlib
from typing import Any

import msgspec

from ...errors import RemoteProtocolError
from ...model import DataVersion, TopicConfig
from ..headers.base import without_nulls
from .base import Body, convert, decode_struct, dumps, object_body

_MAX_REGISTER_BODY_BYTES = 64 * 1024 * 1024
"""Four times the largest frame: bounds what a small compressed body can make a NameServer allocate."""


class TopicConfigTable(Body, frozen=True):
    """A broker's topics and their version: what it registers, and the answer to GET_ALL_TOPIC_CONFIG."""

    topic_config_table: dict[str, TopicConfig]
    data_version: DataVersion = DataVersion()

    @classmethod
    def decode(cls, data: bytes) -> TopicConfigTable:
        """The answer to GET_ALL_TOPIC_CONFIG. Raises RemoteProtocolError."""
        return decode_topic_table(object_body(data))


def encode_register_body(table: TopicConfigTable) -> bytes:
    """Body of REGISTER_BROKER, uncompressed."""
    return dumps({"filterServerList": [], "topicConfigSerializeWrapper": msgspec.to_builtins(table)})


def decode_register_body(data: bytes, *, sender_version: int) -> TopicConfigTable:
    """Body of REGISTER_BROKER in every form brokers send: wrapped JSON, bare JSON (version < 37), compressed.

    A body that begins with 0x78 is compressed whatever the header says: 5.x announces it wrongly.

    Raises:
        RemoteProtocolError: malformed.
    """
    if not data:
        return TopicConfigTable({})
    if data[:1] == b"\x78":
        return _decode_compressed_register_body(data)
    value = object_body(data)
    wrapper = value.get("topicConfigSerializeWrapper", value if sender_version < 37 else None)
    if not isinstance(wrapper, dict):
        raise RemoteProtocolError("register broker: body has no topicConfigSerializeWrapper")
    return decode_topic_table(wrapper)


def decode_topic_table(wrapper: dict[str, Any]) -> TopicConfigTable:
    """The wrapper object of topic configs; a config that cannot be read is an error that names it."""
    table: dict[str, TopicConfig] = {}
    entries = wrapper.get("topicConfigTable") or {}
    if not isinstance(entries, dict):
        raise RemoteProtocolError("topicConfigTable is not an object")
    for name, item in entries.items():
        table[str(name)] = topic_config(item, str(name))
    version = wrapper.get("dataVersion") or {}
    return TopicConfigTable(table, convert(version, DataVersion))


def topic_config(item: Any, name: str | None = None) -> TopicConfig:
    """A TopicConfig object as brokers and tools write it. Raises RemoteProtocolError when it cannot be one."""
    if not isinstance(item, dict):
        raise RemoteProtocolError(f"topic config of {name!r} is not an object")
    item = without_nulls(item)
    item.setdefault("topicName", name)
    config: TopicConfig = convert(item, TopicConfig)
    return config


def _decode_compressed_register_body(data: bytes) -> TopicConfigTable:
    try:
        decompressor = zlib.decompressobj()
        plain = decompressor.decompress(data, _MAX_REGISTER_BODY_BYTES)
        if decompressor.unconsumed_tail:
            raise RemoteProtocolError(f"register broker: body unpacks to more than {_MAX_REGISTER_BODY_BYTES} bytes")
        version_json, position = _take_block(plain, 0)
        (count,) = struct.unpack_from(">i", plain, position)
        position += 4
        table: dict[str, TopicConfig] = {}
        for _ in range(count):
            line, position = _take_block(plain, position)
            tokens = line.decode().split(" ", 5)
            table[tokens[0]] = TopicConfig(
                topic_name=tokens[0],
                read_queue_nums=int(tokens[1]),
                write_queue_nums=int(tokens[2]),
                perm=int(tokens[3]),
                topic_filter_type=tokens[4],
            )
    except (zlib.error, struct.error, ValueError, IndexError) as error:
        raise RemoteProtocolError(f"register broker: malformed compressed body: {error}") from None
    return TopicConfigTable(table, decode_struct(version_json, DataVersion))


def _take_block(data: bytes, position: int) -> tuple[bytes, int]:
    (length,) = struct.unpack_from(">i", data, position)
    end = position + 4 + length
    if length < 0 or end > len(data):
        raise RemoteProtocolError(f"register broker: block of {length} bytes, {len(data) - position - 4} are left")
    return data[position + 4 : end], end
