"""Header fields (extFields): text on the wire, typed structs here, one per command and direction.

Java names a field's type in its header class; the wire has only text, and real clients mix strings, bare numbers and
bare booleans in one header. Decoding therefore first tries the strict and fast way and, where that fails, brings every
value to text and converts it as a Java server would.

Source: RocketMQ 5.3 ``remoting/protocol/header/**``, ``RemotingCommand.decodeCommandCustomHeader``.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Annotated, Any, TypeVar, get_args, get_origin, get_type_hints

import msgspec

from ..errors import LocalProtocolError, RemoteProtocolError

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
        options = get_args(hint) if get_origin(hint) is not None and type(None) in get_args(hint) else (hint,)
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


# --- sending -----------------------------------------------------------------------------------------------------


class SendMessageRequestHeader(Header):
    """SEND_MESSAGE (10), SEND_REPLY_MESSAGE (324)."""

    producer_group: str
    topic: str
    default_topic: str
    default_topic_queue_nums: Int32
    queue_id: Int32
    sys_flag: Int32
    born_timestamp: Int64
    flag: Int32
    properties: str | None = None
    reconsume_times: Int32 | None = None
    unit_mode: bool = False
    max_reconsume_times: Int32 | None = None
    batch: bool = False
    broker_name: str | None = msgspec.field(default=None, name="bname")


class ReplyMessageRequestHeader(SendMessageRequestHeader, kw_only=True):
    """PUSH_REPLY_MESSAGE_TO_CLIENT (326). Hosts are ``ip:port``."""

    born_host: str
    store_host: str
    store_timestamp: Int64


class SendMessageRequestHeaderV2(
    Header,
    rename={
        "producer_group": "a",
        "topic": "b",
        "default_topic": "c",
        "default_topic_queue_nums": "d",
        "queue_id": "e",
        "sys_flag": "f",
        "born_timestamp": "g",
        "flag": "h",
        "properties": "i",
        "reconsume_times": "j",
        "unit_mode": "k",
        "max_reconsume_times": "l",
        "batch": "m",
        "broker_name": "n",
    },
):
    """SEND_MESSAGE_V2 (310), SEND_BATCH_MESSAGE (320), SEND_REPLY_MESSAGE_V2 (325): the same in one-letter names."""

    producer_group: str
    topic: str
    default_topic: str
    default_topic_queue_nums: Int32
    queue_id: Int32
    sys_flag: Int32
    born_timestamp: Int64
    flag: Int32
    properties: str | None = None
    reconsume_times: Int32 | None = None
    unit_mode: bool = False
    max_reconsume_times: Int32 | None = None
    batch: bool = False
    broker_name: str | None = None


class SendMessageResponseHeader(Header):
    msg_id: str
    queue_id: Int32
    queue_offset: Int64
    transaction_id: str | None = None
    region: str | None = msgspec.field(default=None, name="MSG_REGION")
    trace_on: str | None = msgspec.field(default=None, name="TRACE_ON")
    recall_handle: str | None = None


class RecallMessageRequestHeader(Header):
    """RECALL_MESSAGE (370)."""

    topic: str
    recall_handle: str
    producer_group: str | None = None
    broker_name: str | None = msgspec.field(default=None, name="bname")


class RecallMessageResponseHeader(Header):
    msg_id: str


# --- pulling and offsets -----------------------------------------------------------------------------------------


class PullMessageRequestHeader(Header):
    consumer_group: str
    topic: str
    queue_id: Int32
    queue_offset: Int64
    max_msg_nums: Int32
    sys_flag: Int32
    commit_offset: Int64
    suspend_timeout_millis: Int64
    sub_version: Int64 = 0
    subscription: str | None = None
    expression_type: str | None = None
    max_msg_bytes: Int32 | None = None


class PullMessageResponseHeader(Header):
    suggest_which_broker_id: Int64
    next_begin_offset: Int64
    min_offset: Int64
    max_offset: Int64


class QueueOffsetRequestHeader(Header):
    """GET_MAX_OFFSET, GET_MIN_OFFSET, GET_EARLIEST_MSG_STORETIME."""

    topic: str
    queue_id: Int32


class OffsetResponseHeader(Header):
    offset: Int64


class SearchOffsetRequestHeader(Header):
    """``timestamp`` in ms; ``boundary_type`` ``lower`` (default) or ``upper``."""

    topic: str
    queue_id: Int32
    timestamp: Int64
    boundary_type: str | None = None


class EarliestMsgStoretimeResponseHeader(Header):
    timestamp: Int64


class QueryConsumerOffsetRequestHeader(Header):
    consumer_group: str
    topic: str
    queue_id: Int32
    set_zero_if_not_found: bool | None = None


class UpdateConsumerOffsetRequestHeader(Header):
    consumer_group: str
    topic: str
    queue_id: Int32
    commit_offset: Int64


class ViewMessageRequestHeader(Header):
    offset: Int64
    topic: str | None = None


class QueryMessageRequestHeader(Header):
    """Times in ms, of storing. ``unique_key_query`` says that ``key`` is a UNIQ_KEY and no business key."""

    topic: str
    key: str
    max_num: Int32
    begin_timestamp: Int64
    end_timestamp: Int64
    unique_key_query: str | None = msgspec.field(default=None, name="_UNIQUE_KEY_QUERY")


class QueryMessageResponseHeader(Header):
    index_last_update_timestamp: Int64
    index_last_update_phyoffset: Int64


class ConsumerSendMsgBackRequestHeader(Header):
    offset: Int64
    group: str
    delay_level: Int32
    origin_msg_id: str | None = None
    origin_topic: str | None = None
    unit_mode: bool = False
    max_reconsume_times: Int32 | None = None


class EndTransactionRequestHeader(Header):
    """``commit_or_rollback``: 8 commit, 12 rollback, 0 not known yet."""

    producer_group: str
    tran_state_table_offset: Int64
    commit_log_offset: Int64
    commit_or_rollback: Int32
    from_transaction_check: bool = False
    msg_id: str | None = None
    transaction_id: str | None = None
    topic: str | None = None
    broker_name: str | None = msgspec.field(default=None, name="bname")


class CheckTransactionStateRequestHeader(Header):
    tran_state_table_offset: Int64
    commit_log_offset: Int64
    msg_id: str | None = None
    transaction_id: str | None = None
    offset_msg_id: str | None = None
    topic: str | None = None
    broker_name: str | None = msgspec.field(default=None, name="bname")


# --- clients -----------------------------------------------------------------------------------------------------


class UnregisterClientRequestHeader(Header):
    client_id: str = msgspec.field(name="clientID")
    producer_group: str | None = None
    consumer_group: str | None = None


class ConsumerGroupRequestHeader(Header):
    """GET_CONSUMER_LIST_BY_GROUP, NOTIFY_CONSUMER_IDS_CHANGED, GET_CONSUMER_CONNECTION_LIST."""

    consumer_group: str


class ProducerGroupRequestHeader(Header):
    producer_group: str


class ConsumeStatsRequestHeader(Header):
    consumer_group: str
    topic: str | None = None
    topic_list: str | None = None


# --- topics and groups -------------------------------------------------------------------------------------------


class CreateTopicRequestHeader(Header):
    topic: str
    read_queue_nums: Int32
    write_queue_nums: Int32
    perm: Int32
    default_topic: str = "TBW102"
    topic_filter_type: str = "SINGLE_TAG"
    topic_sys_flag: Int32 | None = None
    order: bool = False
    attributes: str | None = None
    force: bool | None = None


class TopicRequestHeader(Header):
    """Any command that names just a topic (DELETE_TOPIC_IN_BROKER, GET_TOPIC_STATS_INFO, GET_TOPIC_CONFIG, ...)."""

    topic: str
    cluster_name: str | None = None


class GroupRequestHeader(Header):
    group: str


class DeleteSubscriptionGroupRequestHeader(Header):
    group_name: str
    clean_offset: bool = False


# --- name server -------------------------------------------------------------------------------------------------


class GetRouteInfoRequestHeader(Header):
    topic: str
    accept_standard_json_only: bool | None = None
    zone_name: str | None = msgspec.field(default=None, name="__ZONE_NAME")
    zone_mode: str | None = msgspec.field(default=None, name="__ZONE_MODE")


class RegisterBrokerRequestHeader(Header):
    broker_name: str
    broker_addr: str
    cluster_name: str
    broker_id: Int64
    ha_server_addr: str = ""
    heartbeat_timeout_millis: Int64 | None = None
    enable_acting_master: bool | None = None
    compressed: bool = False
    body_crc32: Int64 = msgspec.field(default=0, name="bodyCrc32")
    zone_name: str | None = msgspec.field(default=None, name="__ZONE_NAME")


class RegisterBrokerResponseHeader(Header):
    ha_server_addr: str | None = None
    master_addr: str | None = None


class UnregisterBrokerRequestHeader(Header):
    broker_name: str
    broker_addr: str
    cluster_name: str
    broker_id: Int64


class BrokerHeartbeatRequestHeader(Header):
    cluster_name: str
    broker_addr: str
    broker_name: str
    broker_id: Int64 | None = None


class QueryDataVersionRequestHeader(Header):
    broker_name: str
    broker_addr: str
    cluster_name: str
    broker_id: Int64 | None = None


class QueryDataVersionResponseHeader(Header):
    changed: bool


class ClusterRequestHeader(Header):
    cluster: str


class BrokerNameRequestHeader(Header):
    """WIPE_WRITE_PERM_OF_BROKER, ADD_WRITE_PERM_OF_BROKER."""

    broker_name: str


class WipeWritePermResponseHeader(Header):
    wipe_topic_count: Int32


class AddWritePermResponseHeader(Header):
    add_topic_count: Int32


class BrokerMemberGroupRequestHeader(Header):
    cluster_name: str
    broker_name: str


class KvConfigRequestHeader(Header):
    """PUT_KV_CONFIG, GET_KV_CONFIG, DELETE_KV_CONFIG (the latter two without ``value``)."""

    namespace: str
    key: str
    value: str | None = None


class KvConfigResponseHeader(Header):
    value: str | None = None


class KvListRequestHeader(Header):
    namespace: str
