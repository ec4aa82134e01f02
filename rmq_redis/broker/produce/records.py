"""Records of sent messages: encoded once, with the properties that the broker adds and without those it removes."""

from __future__ import annotations

import os

from ...codes import MessageSysFlag
from ...errors import MessageIllegalError, NoPermissionError
from ...model import (
    DLQ_PREFIX,
    MAX_PROPERTIES_BYTES,
    PROPERTY_CLUSTER,
    PROPERTY_POP_CK,
    PROPERTY_REGION,
    PROPERTY_RETRY_TOPIC,
    PROPERTY_TAGS,
    PROPERTY_TRACE_ON,
    PROPERTY_TRANSACTION_PREPARED,
    PROPERTY_UNIQ_KEY,
    RETRY_PREFIX,
)
from ...protocol.batch import batch_to_records
from ...protocol.headers.send import SendMessageRequestHeader, SendMessageRequestHeaderV2
from ...protocol.ids import UniqKeyGenerator
from ...protocol.properties import find_property, remove_property, tags_code
from ...protocol.record import RecordHead, encode_record
from ...remoting.connection import Connection
from ..group.redelivery import RETRY_ROOM_BYTES
from ..group.schedule import take_due_ms, with_real_queue
from ..group.state import GroupState
from ..group.topics import Topic

REGION = "DefaultRegion"
TRANSACTION = int(MessageSysFlag.TRANSACTION_ROLLBACK)
"""Both transaction bits. A plain int, like all flags of this path: an operator of an IntFlag costs a microsecond."""
_MAX_CACHED_TAGS = 10_000
"""Bounds the cache's memory: a client can make up tags."""
_LONGEST_RETRY_TOPIC = 160
"""Bytes that the RETRY_TOPIC of a redelivery takes at most."""
_SPECIAL = (b"DELAY\x01", b"TIMER_DE", b"TRAN_MSG\x01", b"POP_CK\x01")

SendHeader = SendMessageRequestHeader | SendMessageRequestHeaderV2


class RecordEncoder:
    """Encodes sent messages as stored records."""

    def __init__(self, state: GroupState) -> None:
        self._unique_keys = UniqKeyGenerator(state.store_host[:-4], os.getpid(), os.urandom(4))
        self._store_host = state.store_host
        self._max_batch_msg_nums = state.config.max_batch_msg_nums
        self._broker_properties = (
            f"CLUSTER\x01{state.config.cluster_name}\x02MSG_REGION\x01{REGION}\x02TRACE_ON\x01true\x02"
        )
        self._broker_property_bytes = self._broker_properties.encode()
        self._tag_codes: dict[str | bytes, int] = {}

    def single(
        self, connection: Connection, header: SendHeader, body: bytes, topic: Topic, queue_id: int, now_ms: int
    ) -> tuple[bytes, int]:
        """The record of one message, and when it is due (ms; 0: now).

        Raises MessageIllegalError, NoPermissionError; LocalProtocolError or UnicodeError if it cannot be encoded.
        """
        text = header.properties or ""
        if header.sys_flag & TRANSACTION:
            raise NoPermissionError("a message with transaction bits needs the property TRAN_MSG=true")
        code = due_ms = 0
        if text:
            text, due_ms = self._stored_properties(text, header.topic, now_ms)
            if "TAGS\x01" in text:
                code = self._tags_code(find_property(text, PROPERTY_TAGS))
        if not (text.startswith("UNIQ_KEY\x01") or "\x02UNIQ_KEY\x01" in text):
            text += f"UNIQ_KEY\x01{self._unique_keys.next(now_ms)}\x02"
        if due_ms:
            room = MAX_PROPERTIES_BYTES - len(text.encode()) - len(self._broker_properties)
            text = with_real_queue(text, header.topic, queue_id, room)
        properties = (text + self._broker_properties).encode()
        if len(properties) > MAX_PROPERTIES_BYTES - _LONGEST_RETRY_TOPIC:
            properties = self._at_the_limit(header.topic, text)
        head = RecordHead(
            queue_id,
            header.flag,
            header.sys_flag,
            header.born_timestamp,
            connection.remote_host,
            now_ms,
            self._store_host,
            header.reconsume_times or 0,
            queue_offset=code,
        )
        return encode_record(head, topic.name_bytes, body, properties), due_ms

    def batch(
        self, connection: Connection, header: SendHeader, body: bytes, topic: Topic, queue_id: int, now_ms: int
    ) -> list[bytes]:
        """The records of a batch, in its order. Raises as ``single``, and RemoteProtocolError for a malformed batch."""
        if header.topic.startswith(RETRY_PREFIX):
            raise MessageIllegalError("a batch cannot go to a retry topic")

        def change(item_properties: bytes) -> tuple[int, bytes]:
            text = item_properties.decode()
            if text and text[-1] != "\x02":
                text += "\x02"
            text, due_ms = take_due_ms(text, now_ms, header.topic)
            if due_ms:
                raise MessageIllegalError("a batch cannot carry messages that are due later")
            if find_property(text, PROPERTY_TRANSACTION_PREPARED) == "true":
                raise NoPermissionError("a batch cannot carry transactional messages")
            if find_property(text, PROPERTY_UNIQ_KEY) is None:
                text += f"UNIQ_KEY\x01{self._unique_keys.next(now_ms)}\x02"
            return self._tags_code(find_property(text, PROPERTY_TAGS)), remove_property(text, PROPERTY_POP_CK).encode()

        head = RecordHead(
            queue_id,
            0,
            header.sys_flag,
            header.born_timestamp,
            connection.remote_host,
            now_ms,
            self._store_host,
        )
        return batch_to_records(
            body,
            head,
            topic.name_bytes,
            change=change,
            change_all=any(name in body for name in _SPECIAL),  # one search of the whole, not several of each message
            code_of=self._code_of if b"TAGS\x01" in body else None,
            suffix=self._broker_property_bytes,
            max_nums=self._max_batch_msg_nums,
        )

    @staticmethod
    def _stored_properties(text: str, topic: str, now_ms: int) -> tuple[str, int]:
        """A client's properties as they are stored, and when the message is due (ms; 0: now)."""
        due_ms = 0
        if text[-1] != "\x02":
            text += "\x02"
        if "DELAY\x01" in text or "TIMER_DE" in text:
            text, due_ms = take_due_ms(text, now_ms, topic)
        if "MSG_REGION\x01" in text or "POP_CK\x01" in text or "CLUSTER\x01" in text:
            for name in (PROPERTY_REGION, PROPERTY_TRACE_ON, PROPERTY_CLUSTER, PROPERTY_POP_CK):
                text = remove_property(text, name)
        return text, due_ms

    def _at_the_limit(self, topic: str, text: str) -> bytes:
        """Properties near the limit: a resent message may lose the broker's, a new one must leave room for a retry.

        Raises:
            MessageIllegalError: they are too long, or would be with the RETRY_TOPIC of a redelivery.
        """
        ours, limit = self._broker_properties, MAX_PROPERTIES_BYTES
        size = len(text.encode())
        if topic.startswith((RETRY_PREFIX, DLQ_PREFIX)):
            ours = ours if size + len(ours) <= limit else ""
        else:
            limit = min(limit, limit - len(f"{PROPERTY_RETRY_TOPIC}\x01{topic}\x02") + RETRY_ROOM_BYTES)
        if size + len(ours) > limit:
            raise MessageIllegalError(
                f"the properties have {size + len(ours)} bytes, at most {limit} are allowed for this topic"
            )
        return (text + ours).encode()

    def _code_of(self, properties: bytes) -> int:
        """The code of the tags among the properties of a batch's message, which are ASCII; 0 without tags."""
        before, _, after = properties.partition(b"TAGS\x01")
        if before and before[-1] != 2:  # the end of another name
            return self._tags_code(find_property(properties.decode(), PROPERTY_TAGS))
        return self._tags_code(after.partition(b"\x02")[0])

    def _tags_code(self, tags: str | bytes | None) -> int:
        if not tags:
            return 0
        code = self._tag_codes.get(tags)
        if code is None:
            if len(self._tag_codes) >= _MAX_CACHED_TAGS:
                self._tag_codes.clear()
            text = tags.decode() if isinstance(tags, bytes) else tags
            code = self._tag_codes[tags] = tags_code(text)
        return code
