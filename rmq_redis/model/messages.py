"""Messages, as a producer sends them and as a consumer gets them, and the queues that hold them."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import timedelta
from typing import Self, TypedDict, Unpack

import msgspec

from ..durations import LAST_MS, as_seconds, as_timestamp_ms
from ..errors import MessageIllegalLocallyError
from ..hosts import offset_msg_id
from .properties import (
    KEY_SEPARATOR,
    LATER_PROPERTIES,
    PROPERTY_DELAY,
    PROPERTY_KEYS,
    PROPERTY_REAL_QUEUE_ID,
    PROPERTY_REAL_TOPIC,
    PROPERTY_TAGS,
    PROPERTY_TIMER_DELAY_MS,
    PROPERTY_TIMER_DELIVER_MS,
    PROPERTY_UNIQ_KEY,
)

MAX_PROPERTIES_BYTES = 32767
"""A record's length of properties is a signed 16-bit number."""
DELAY_LEVELS_S = (1, 5, 10, 30, 60, 120, 180, 240, 300, 360, 420, 480, 540, 600, 1200, 1800, 3600, 7200)
"""Seconds of the delay levels 1 to 18. Source: ``messageDelayLevel``."""
MAX_DELAY_LEVEL = len(DELAY_LEVELS_S)
DEFAULT_MAX_MESSAGE_BYTES = 4 * 1024 * 1024
"""Source: ``MessageStoreConfig.maxMessageSize``."""


def joined_keys(keys: Iterable[str]) -> str:
    """Business keys as the property ``KEYS`` has them. Raises MessageIllegalLocallyError: not a list of str."""
    try:
        return KEY_SEPARATOR.join(keys)
    except TypeError:
        raise MessageIllegalLocallyError(f"keys must be str or a list of str, not {keys!r:.80}") from None


class MessageQueue(msgspec.Struct, frozen=True, order=True, rename="camel"):
    """One queue of a topic in one broker group. Sorts by topic, then broker name, then queue id, as RocketMQ does."""

    topic: str
    broker_name: str
    queue_id: int

    def __str__(self) -> str:
        return f"queue {self.queue_id} of {self.topic} on {self.broker_name}"


_OF_A_DELAY = frozenset({*LATER_PROPERTIES, PROPERTY_REAL_TOPIC, PROPERTY_REAL_QUEUE_ID})
"""A message that was delivered late has these; one that is sent on with them is not delayed a second time."""


class Message(msgspec.Struct, kw_only=False):
    """A message to be sent.

    Attributes:
        topic: where it goes.
        body: 1 byte to 4 MiB; a ``str`` is sent as UTF-8.
        tags: one tag (the plural is RocketMQ's), by which consumers can filter; "" for none.
        keys: business keys, by which the message can be looked up; several are joined by blanks.
        properties: any further string pairs; keys and values may not contain U+0001 or U+0002.
        flag: a number of the user's own (32 bits, signed), handed to consumers as it is.

    Raises:
        MessageIllegalLocallyError: a topic, keys or properties of another type. The rest is checked by the send.
    """

    topic: str
    body: bytes | str
    tags: str = ""
    keys: str | list[str] = ""
    properties: dict[str, str] = msgspec.field(default_factory=dict)
    flag: int = 0

    def __post_init__(self) -> None:
        if isinstance(self.body, str):
            try:
                self.body = self.body.encode()
            except UnicodeEncodeError as error:
                raise MessageIllegalLocallyError(f"the body cannot be written as UTF-8: {error}") from None
        if not isinstance(self.keys, str):
            self.keys = joined_keys(self.keys)
        if not isinstance(self.topic, str):
            raise MessageIllegalLocallyError(f"the topic must be str, not {self.topic!r:.80}")
        if not isinstance(self.properties, dict):
            raise MessageIllegalLocallyError(f"properties must be a dict, not {self.properties!r:.80}")

    def with_delay_level(self, level: int) -> Self:
        """Has the message delivered after the time of a delay level, 1 to 18 (1 s to 2 h); returns the message.

        Raises:
            MessageIllegalLocallyError: no level from 1 to 18.
        """
        if not isinstance(level, int) or isinstance(level, bool) or not 1 <= level <= MAX_DELAY_LEVEL:
            raise MessageIllegalLocallyError(f"delay level {level!r:.80}, expected 1 to {MAX_DELAY_LEVEL}")
        return self._later(PROPERTY_DELAY, level)

    def with_delay_s(self, delay_s: float | timedelta) -> Self:
        """Has the message delivered ``delay_s`` seconds (to the ms) after a broker took it; returns the message.

        Args:
            delay_s: a number of seconds, or a ``timedelta``. What brokers allow is set there (3 days by default).

        Raises:
            MessageIllegalLocallyError: not above 0, not finite, or no duration.
        """
        try:
            seconds = as_seconds(delay_s)
        except ValueError as error:
            raise MessageIllegalLocallyError(f"delay: {error}") from None
        if not 0 < seconds <= LAST_MS / 1000:
            raise MessageIllegalLocallyError(f"delay of {delay_s} s, expected more than 0 and a finite number")
        return self._later(PROPERTY_TIMER_DELAY_MS, max(round(seconds * 1000), 1))

    def with_deliver_at_ms(self, deliver_ms: float) -> Self:
        """Has the message delivered at a time, in ms since 1970, at once if that is past; returns the message.

        Raises:
            MessageIllegalLocallyError: not in the years 1970 to 9999, or no number.
        """
        try:
            return self._later(PROPERTY_TIMER_DELIVER_MS, as_timestamp_ms(deliver_ms))
        except ValueError as error:
            raise MessageIllegalLocallyError(f"delivery time: {error}") from None

    def _later(self, name: str, value: int) -> Self:
        kept = {key: text for key, text in self.properties.items() if key not in _OF_A_DELAY}
        self.properties = kept | {name: str(value)}
        return self

    @property
    def transaction_id(self) -> str:
        """In ``execute_local_transaction``: what identifies the transaction, also when a broker asks about it."""
        return self.properties.get(PROPERTY_UNIQ_KEY, "")


class MessageChanges(TypedDict, total=False):
    """The fields of a ``MessageExt`` that ``rewritten`` can change."""

    topic: str
    body: bytes
    properties: dict[str, str]
    queue_id: int
    queue_offset: int
    commit_log_offset: int
    sys_flag: int
    store_timestamp_ms: int
    store_host: str
    reconsume_times: int
    prepared_transaction_offset: int
    broker_name: str
    body_error: str | None


class MessageExt(msgspec.Struct, frozen=True):
    """A message as a consumer gets it: what was sent, and what the broker knows about it.

    Times are milliseconds since 1970; hosts are ``ip:port``. ``body_error`` says why a compressed body could not be
    decompressed (too large, damaged, not zlib); the body is then as it is stored.
    """

    topic: str
    body: bytes
    properties: dict[str, str]
    flag: int
    queue_id: int
    queue_offset: int
    commit_log_offset: int
    sys_flag: int
    born_timestamp_ms: int
    born_host: str
    store_timestamp_ms: int
    store_host: str
    reconsume_times: int
    prepared_transaction_offset: int
    store_size: int
    broker_name: str = ""
    body_error: str | None = None

    @property
    def tags(self) -> str:
        """Its one tag (the plural is RocketMQ's); "" for none."""
        return self.properties.get(PROPERTY_TAGS, "")

    @property
    def keys(self) -> str:
        """Its business keys, joined by blanks; "" for none."""
        return self.properties.get(PROPERTY_KEYS, "")

    @property
    def msg_id(self) -> str:
        """The id that the producer gave (UNIQ_KEY); without one, the broker's ``offset_msg_id``."""
        return self.properties.get(PROPERTY_UNIQ_KEY) or self.offset_msg_id

    @property
    def offset_msg_id(self) -> str:
        """The broker's id: its address and the message's address in its store, as upper-case hex."""
        return offset_msg_id(self.store_host, self.commit_log_offset)

    @property
    def transaction_id(self) -> str:
        """What identifies the transaction that the message was sent in: the same as its ``msg_id``."""
        return self.msg_id

    @property
    def queue(self) -> MessageQueue:
        """Where it is."""
        return MessageQueue(self.topic, self.broker_name, self.queue_id)

    def rewritten(self, **changes: Unpack[MessageChanges]) -> Self:
        """A copy with some fields changed, as for storing the message again or returning it under another topic."""
        return msgspec.structs.replace(self, **changes)

    def text(self) -> str:
        """The body as UTF-8 text."""
        return self.body.decode()
