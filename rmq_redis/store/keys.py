"""Every key of a broker group: name, type, what it holds. An operator may print this page.

All keys of a group carry the hash tag ``{brokerName}``, so that on a Redis Cluster they live in one slot. Topic and
group names cannot contain ``:``, which keeps the names unambiguous.

| key | type | holds |
|---|---|---|
| ``<prefix>:{<brokerName>}:queue:<topic>:<queueId>`` | stream | one queue; entry ``0-<queueOffset + 1>``, field ``m`` |
| ``<prefix>:{<brokerName>}:topics`` | hash | topic -> TopicConfig (JSON) with ``queueNumbers`` |
| ``<prefix>:{<brokerName>}:groups`` | hash | consumer group -> SubscriptionGroupConfig (JSON) |
| ``<prefix>:{<brokerName>}:retired`` | hash | deleted topic -> sequence behind which its queues begin if it returns |
| ``<prefix>:{<brokerName>}:version`` | string | counts the changes of the two hashes above |
| ``<prefix>:{<brokerName>}:queue-numbers`` | string | last queue number that was assigned |
| ``<prefix>:{<brokerName>}:offsets:<group>:<topic>`` | hash | queueId -> committed offset |
| ``<prefix>:{<brokerName>}:consumed`` | set | ``<group>:<topic>`` of every offsets hash |
| ``<prefix>:{<brokerName>}:offset-resets`` | hash | ``<group>:<topic>:<queueId>`` -> offset that members must go to |
| ``<prefix>:{<brokerName>}:scheduled`` | sorted set | ids of what appears later, by due time in ms |
| ``<prefix>:{<brokerName>}:scheduled-records`` | hash | id -> record of what appears later |
| ``<prefix>:{<brokerName>}:recallable`` | hash | ``<topic>+<UNIQ_KEY>`` -> ids of timers, 16 characters each |
| ``<prefix>:{<brokerName>}:half`` | hash | number -> record of an undecided transactional message |
| ``<prefix>:{<brokerName>}:half-checks`` | sorted set | numbers by the time (ms) of their next check |
| ``<prefix>:{<brokerName>}:half-counts`` | hash | number -> count of checks with its producers |
| ``<prefix>:{<brokerName>}:half-numbers`` | string | last number that was assigned |
| ``<prefix>:{<brokerName>}:half-keys`` | hash | ``<PGROUP>+<topic>+<UNIQ_KEY>`` -> number of the half message |
| ``<prefix>:{<brokerName>}:given-back:<id>`` | string, TTL | where the retry or dead letter of a message is |
| ``<prefix>:{<brokerName>}:popped`` | sorted set | ``<group>:<topic>:<queueId>:<n>`` by when entry 0-n is visible |
| ``<prefix>:{<brokerName>}:ordered`` | hash | ``<group>:<topic>:<queueId>`` -> batch that ordered POPs have delivered |
| ``<prefix>:{<brokerName>}:request-modes`` | hash | ``<group>:<topic>`` -> PULL or POP (JSON) |
| ``<prefix>:{<brokerName>}:locks`` | hash | ``<group>:<topic>:<queueId>`` -> ``<ms when granted>:<client id>`` |
| ``<prefix>:{<brokerName>}:epoch`` | string | grows with every master that takes over; older ones are fenced off |
| ``<prefix>:{<brokerName>}:lease`` | string, TTL | address of the master, as long as it renews it |
| ``<prefix>:{<brokerName>}:slave:<brokerId>`` | string, TTL | address of the slave that has this id |
"""

from __future__ import annotations

from ..errors import ConfigError


def check_key_prefix(prefix: str) -> None:
    """Refuses a prefix that would break the key names.

    Braces are Redis Cluster's hash tag: with a pair in the prefix, the keys of a group would not share the slot that
    ``{brokerName}`` provides them, or all groups would share one.

    Raises:
        ConfigError: the prefix has a brace, a space or a control character.
    """
    for character in prefix:
        if character in "{}" or character.isspace() or not character.isprintable():
            raise ConfigError(
                f"key_prefix={prefix!r}: {character!r} is not allowed; leave out braces (the hash tag of "
                "Redis Cluster), spaces and control characters"
            )


class GroupKeys:
    """Key names of one broker group, as bytes.

    Raises:
        ConfigError: a prefix that ``check_key_prefix`` refuses.
    """

    def __init__(self, prefix: str, broker_name: str) -> None:
        check_key_prefix(prefix)
        self.tag = broker_name
        self.base = f"{prefix}:{{{broker_name}}}:".encode()
        self.topics = self.base + b"topics"
        self.groups = self.base + b"groups"
        self.retired = self.base + b"retired"
        self.version = self.base + b"version"
        self.queue_numbers = self.base + b"queue-numbers"
        self.consumed = self.base + b"consumed"
        self.offset_resets = self.base + b"offset-resets"
        self.scheduled = self.base + b"scheduled"
        self.scheduled_records = self.base + b"scheduled-records"
        self.recallable = self.base + b"recallable"
        self.half = self.base + b"half"
        self.half_checks = self.base + b"half-checks"
        self.half_counts = self.base + b"half-counts"
        self.half_numbers = self.base + b"half-numbers"
        self.half_keys = self.base + b"half-keys"
        self.popped = self.base + b"popped"
        self.ordered = self.base + b"ordered"
        self.request_modes = self.base + b"request-modes"
        self.locks = self.base + b"locks"
        self.epoch = self.base + b"epoch"
        self.lease = self.base + b"lease"

    def queue(self, topic: str, queue_id: int) -> bytes:
        return b"%bqueue:%b:%d" % (self.base, topic.encode(), queue_id)

    def given_back(self, group: str, topic: str, reconsume_times: int, unique_key: str) -> bytes:
        """``<id>`` is ``<group>:<topic>:<reconsumeTimes>:<UNIQ_KEY>``: what a group could not handle, and which try."""
        return b"%bgiven-back:%b:%b:%d:%b" % (
            self.base,
            group.encode(),
            topic.encode(),
            reconsume_times,
            unique_key.encode(),
        )

    def slave(self, broker_id: int) -> bytes:
        return b"%bslave:%d" % (self.base, broker_id)

    def offsets(self, group: str, topic: str) -> bytes:
        return b"%boffsets:%b:%b" % (self.base, group.encode(), topic.encode())
