"""JSON bodies, and fastjson's habits: map keys that are numbers or whole objects are written without quotes.

Reading is lenient (what real clients send, see ``decode_heartbeat``); writing is exact, because some clients cut the
text apart by hand. Source: RocketMQ 5.3 ``remoting/protocol/body/**``, ``TopicRouteData``, ``HeartbeatData``.
"""

from __future__ import annotations

import json
import re
import struct
import zlib
from collections.abc import Iterable, Mapping
from typing import Any, Self

import msgspec

from ..errors import RemoteProtocolError
from ..model import BrokerData, DataVersion, MessageQueue, QueueData, TopicConfig, TopicRouteData
from .group_config import SubscriptionGroupConfig as SubscriptionGroupConfig  # noqa: PLC0414  (a body as well)
from .header import loads_lenient

_MAX_DEPTH = 32
_MAX_REGISTER_BODY_BYTES = 64 * 1024 * 1024
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


# --- fastjson ----------------------------------------------------------------------------------------------------


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
        value = {key: item for key, item in value.items() if item is not None}
    return convert(value, kind)


def object_body(data: bytes) -> dict[str, Any]:
    """A JSON object body; an empty body is {}. Raises RemoteProtocolError for anything else."""
    if not data:
        return {}
    value = loads(data)
    if not isinstance(value, dict):
        raise RemoteProtocolError(f"body must be a JSON object, got {type(value).__name__}")
    return value


# --- routes ------------------------------------------------------------------------------------------------------


def encode_route(route: TopicRouteData, *, standard_json: bool) -> bytes:
    """A topic's route.

    Args:
        standard_json: quoted broker ids, for clients of version 401 (4.9.4) on or that ask for it; older ones get the
            form of 4.x NameServers: bare ids, no booleans, no nulls (one client parses it as a Python literal).
    """
    data: dict[str, Any] = {
        "brokerDatas": [
            {
                "brokerAddrs": dict(sorted(broker.broker_addrs.items())),
                "brokerName": broker.broker_name,
                "cluster": broker.cluster,
                **({"zoneName": broker.zone_name} if broker.zone_name else {}),
            }
            for broker in route.broker_datas
        ],
        "filterServerTable": {},
        "orderTopicConf": route.order_topic_conf,
        "queueDatas": [
            {
                "brokerName": queue.broker_name,
                "perm": queue.perm,
                "readQueueNums": queue.read_queue_nums,
                "topicSysFlag": queue.topic_sys_flag,
                "writeQueueNums": queue.write_queue_nums,
            }
            for queue in route.queue_datas
        ],
    }
    return dumps(data, quote_keys=standard_json)


def _broker_datas(items: Any) -> list[BrokerData]:
    brokers = []
    for item in items if isinstance(items, list) else []:
        addresses: dict[int, str] = {}
        for key, address in (item.get("brokerAddrs") or {}).items():
            addresses[int(key)] = str(address)
        zone_name = str(item.get("zoneName") or "")
        brokers.append(BrokerData(str(item.get("cluster") or ""), str(item["brokerName"]), addresses, zone_name))
    return brokers


def decode_route(data: bytes) -> TopicRouteData:
    """The answer to GET_ROUTEINFO_BY_TOPIC, quoted or bare keys.

    Raises:
        RemoteProtocolError: not a route.
    """
    value = object_body(data)
    try:
        queues = [
            QueueData(
                str(item["brokerName"]),
                int(item["readQueueNums"]),
                int(item["writeQueueNums"]),
                int(item["perm"]),
                int(item.get("topicSysFlag") or item.get("topicSynFlag") or 0),
            )
            for item in value.get("queueDatas") or []
        ]
        return TopicRouteData(_broker_datas(value.get("brokerDatas")), queues, value.get("orderTopicConf"))
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise RemoteProtocolError(f"malformed topic route: {error!r}") from None


class ClusterInfo(msgspec.Struct, frozen=True):
    """Answer to GET_BROKER_CLUSTER_INFO: groups by name, and the groups of each cluster."""

    brokers: dict[str, BrokerData]
    clusters: dict[str, list[str]]


def encode_cluster_info(info: ClusterInfo) -> bytes:
    return dumps(
        {
            "brokerAddrTable": {
                name: {
                    "brokerAddrs": dict(sorted(broker.broker_addrs.items())),
                    "brokerName": broker.broker_name,
                    "cluster": broker.cluster,
                }
                for name, broker in info.brokers.items()
            },
            "clusterAddrTable": info.clusters,
        }
    )


def decode_cluster_info(data: bytes) -> ClusterInfo:
    """Raises RemoteProtocolError when it is none."""
    value = object_body(data)
    try:
        brokers = {
            broker.broker_name: broker for broker in _broker_datas(list((value.get("brokerAddrTable") or {}).values()))
        }
        clusters = {str(name): list(names) for name, names in (value.get("clusterAddrTable") or {}).items()}
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise RemoteProtocolError(f"malformed cluster info: {error!r}") from None
    return ClusterInfo(brokers, clusters)


# --- broker registration -----------------------------------------------------------------------------------------


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
    item = {key: value for key, value in item.items() if value is not None}
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


# --- clients -----------------------------------------------------------------------------------------------------


class SubscriptionData(msgspec.Struct, frozen=True, rename="camel", kw_only=True):
    """One topic of a group's subscription. ``sub_version`` is the ms (or ns) time at which it was made."""

    topic: str
    sub_string: str = "*"
    tags_set: list[str] = []
    code_set: list[int] = []
    sub_version: int = 0
    expression_type: str = "TAG"
    class_filter_mode: bool = False


class ConsumerData(msgspec.Struct, frozen=True, rename="camel", kw_only=True):
    """One consumer group of a client."""

    group_name: str
    consume_type: str = "CONSUME_PASSIVELY"
    message_model: str = "CLUSTERING"
    consume_from_where: str = "CONSUME_FROM_LAST_OFFSET"
    subscription_data_set: list[SubscriptionData] = []
    unit_mode: bool = False


class ProducerData(msgspec.Struct, frozen=True, rename="camel"):
    group_name: str


class HeartbeatData(msgspec.Struct, frozen=True, rename="camel", kw_only=True):
    """Body of HEART_BEAT: the groups that a client is a member of."""

    client_id: str = msgspec.field(name="clientID")
    producer_data_set: list[ProducerData] = []
    consumer_data_set: list[ConsumerData] = []
    heartbeat_fingerprint: int = 0
    without_sub: bool = False


_CONSUME_TYPES = ("CONSUME_ACTIVELY", "CONSUME_PASSIVELY", "CONSUME_POP")
_MESSAGE_MODELS = ("BROADCASTING", "CLUSTERING")
_CONSUME_FROM = (
    "CONSUME_FROM_LAST_OFFSET",
    "CONSUME_FROM_LAST_OFFSET_AND_FROM_MIN_WHEN_BOOT_FIRST",
    "CONSUME_FROM_MIN_OFFSET",
    "CONSUME_FROM_MAX_OFFSET",
    "CONSUME_FROM_FIRST_OFFSET",
    "CONSUME_FROM_TIMESTAMP",
)


def _enum_name(value: Any, names: tuple[str, ...], default: str) -> str:
    """An enumeration as name or as ordinal (client-cpp writes numbers)."""
    if isinstance(value, bool) or value is None:
        return default
    text = str(value)
    if text.isdecimal():
        index = int(text) if len(text) < 4 else len(names)
        return names[index] if index < len(names) else default
    return text


def decode_heartbeat(data: bytes) -> HeartbeatData:
    """A heartbeat as any client writes it: enumerations as names or ordinals, missing lists, numbers as text, the list
    of subscriptions under either of its two names.

    Raises:
        RemoteProtocolError: no client id, or not a heartbeat at all.
    """
    value = loads_lenient(data)
    if not isinstance(value, dict) or not value.get("clientID"):
        raise RemoteProtocolError("heartbeat: no clientID")
    try:
        consumers = [_consumer_data(item) for item in value.get("consumerDataSet") or []]
        producers = [ProducerData(str(item["groupName"])) for item in value.get("producerDataSet") or []]
        return HeartbeatData(
            client_id=str(value["clientID"]),
            producer_data_set=producers,
            consumer_data_set=consumers,
            heartbeat_fingerprint=int(value.get("heartbeatFingerprint") or 0),
            without_sub=value.get("withoutSub") in (True, "true"),
        )
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise RemoteProtocolError(f"malformed heartbeat: {error!r}") from None


def _consumer_data(item: dict[str, Any]) -> ConsumerData:
    subscriptions = item.get("subscriptionDataSet") or item.get("subscriptionData") or []
    return ConsumerData(
        group_name=str(item["groupName"]),
        consume_type=_enum_name(item.get("consumeType"), _CONSUME_TYPES, "CONSUME_PASSIVELY"),
        message_model=_enum_name(item.get("messageModel"), _MESSAGE_MODELS, "CLUSTERING"),
        consume_from_where=_enum_name(item.get("consumeFromWhere"), _CONSUME_FROM, "CONSUME_FROM_LAST_OFFSET"),
        subscription_data_set=[subscription_data(subscription) for subscription in subscriptions],
        unit_mode=item.get("unitMode") in (True, "true"),
    )


def subscription_data(item: dict[str, Any]) -> SubscriptionData:
    """One subscription as any client writes it."""
    return SubscriptionData(
        topic=str(item["topic"]),
        sub_string=str(item.get("subString") or "*"),
        tags_set=[str(tag) for tag in item.get("tagsSet") or []],
        code_set=[int(code) for code in item.get("codeSet") or []],
        sub_version=int(item.get("subVersion") or 0),
        expression_type=str(item.get("expressionType") or "TAG"),
        class_filter_mode=item.get("classFilterMode") in (True, "true"),
    )


def decode_queue_set(value: Any) -> list[MessageQueue]:
    """A list of message queues out of a parsed body. Raises RemoteProtocolError."""
    if value is None:
        return []
    queues: list[MessageQueue] = convert(value, list[MessageQueue])
    return queues
