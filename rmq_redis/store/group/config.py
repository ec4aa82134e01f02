"""Topic and consumer-group configurations of a broker group: JSON in two hashes, and a counter of their changes."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Collection, Iterable
from typing import Any

import msgspec

from ...errors import RemoteProtocolError, StoreError
from ...model import TopicConfig
from ...protocol.bodies.base import convert, loads
from ...protocol.bodies.registration import topic_config
from ...protocol.group_config import SubscriptionGroupConfig
from ..keys import GroupKeys
from ..redis.connection import Arg, StoreConnection
from .offsets import GroupTopic
from .queue import MAX_QUEUE_NUMBER, Queue
from .queues import QueueStore


class StoredTopic(msgspec.Struct, frozen=True):
    """A topic as stored.

    Attributes:
        queue_numbers: by queue id, that queue's number in physical offsets.
        first_offset: where its queues began; above 0 if a topic of this name was deleted before.
    """

    config: TopicConfig
    queue_numbers: tuple[int, ...]
    first_offset: int = 0


class RequestMode(msgspec.Struct, frozen=True, rename="camel", kw_only=True):
    """How a group's members get a topic's messages when the broker shares its queues: PULL or POP."""

    mode: str = "PULL"
    pop_share_queue_num: int = 0


class ConfigStore:
    """Reads and writes the two hashes. Writing needs the group's current epoch."""

    def __init__(self, queue_store: QueueStore) -> None:
        self._store = queue_store
        self._keys: GroupKeys = queue_store.keys
        self._retired: dict[str, int] = {}
        """Deleted topics, and the sequence behind which their queues begin if they return; see the hash."""

    async def version(self) -> int:
        """How often the configurations changed."""
        return int(await self._store.current_read().execute("GET", self._keys.version) or 0)

    async def load_topics(self) -> dict[str, StoredTopic]:
        """All topics. Raises StoreError, also when an entry cannot be read (it names it)."""
        connection = self._store.current_read()
        answer = await connection.execute("HGETALL", self._keys.topics)
        retired = await connection.execute("HGETALL", self._keys.retired)
        for name, last in zip(retired[::2], retired[1::2], strict=True):
            self._retire(name.decode(), int(last))
        topics: dict[str, StoredTopic] = {}
        for field, value in zip(answer[::2], answer[1::2], strict=True):
            name = field.decode()
            data = self._load(self._keys.topics, name, value)
            try:
                numbers = convert(data.pop("queueNumbers", ()), tuple[int, ...])
                topics[name] = StoredTopic(topic_config(data, name), numbers, self._retired.get(name, 0))
            except RemoteProtocolError as error:
                raise _damaged(self._keys.topics, name, error) from None
        return topics

    async def load_groups(self) -> dict[str, SubscriptionGroupConfig]:
        """All consumer groups. Raises StoreError, also when an entry cannot be read (it names it)."""
        answer = await self._store.current_read().execute("HGETALL", self._keys.groups)
        groups: dict[str, SubscriptionGroupConfig] = {}
        for field, value in zip(answer[::2], answer[1::2], strict=True):
            name = field.decode()
            data = self._load(self._keys.groups, name, value)
            try:
                groups[name] = convert(data, SubscriptionGroupConfig)
            except RemoteProtocolError as error:
                raise _damaged(self._keys.groups, name, error) from None
        return groups

    @staticmethod
    def _load(key: bytes, field: str, value: bytes) -> dict[str, Any]:
        try:
            data = loads(value)
        except RemoteProtocolError as error:
            raise _damaged(key, field, error) from None
        if not isinstance(data, dict):
            raise StoreError(f"hash {key.decode()} field {field} is not a JSON object")
        return data

    async def put_topic(self, config: TopicConfig, queue_numbers: tuple[int, ...]) -> StoredTopic:
        """Stores a topic, with a new number for every queue that has none yet.

        Raises:
            StoreError: the store is unavailable, or this master is fenced off.
        """
        missing = max(config.read_queue_nums, config.write_queue_nums) - len(queue_numbers)
        if missing > 0:
            top = await self._take_numbers(missing)
            if top > MAX_QUEUE_NUMBER - 1:  # the last two stand for messages that wait for something
                raise StoreError(f"all {MAX_QUEUE_NUMBER - 1} queue numbers of this broker group are used up")
            queue_numbers += tuple(range(top - missing, top))
        new = range(len(queue_numbers) - max(missing, 0), len(queue_numbers))
        keys = [self._keys.topics, self._keys.version, self._keys.retired]
        keys += [self._keys.queue(config.topic_name, queue_id) for queue_id in new]
        args: list[Arg] = [config.topic_name, _topic_text(config, queue_numbers)]
        return StoredTopic(config, queue_numbers, int(await self._store.call("put_topic", keys, args)))

    async def _take_numbers(self, nums: int) -> int:
        """Takes queue numbers that were never used; the one behind them. The store may have lost its count."""
        connection = self._store.current()
        top = int(await connection.execute("INCRBY", self._keys.queue_numbers, nums))
        behind = self._next_number() + nums - top
        if behind > 0:
            top = int(await connection.execute("INCRBY", self._keys.queue_numbers, behind))
        return top

    def _next_number(self) -> int:
        return max(self._store.queues_by_number, default=-1) + 1

    def _retire(self, topic: str, last: int) -> None:
        self._retired[topic] = max(last, self._retired.get(topic, 0))

    async def lost(self, version: int, *, has_groups: bool) -> list[str]:
        """Keys of the configurations that are missing, or older than this process knows them. Raises StoreError.

        Args:
            version: changes of the configurations that are stored.
            has_groups: whether there are consumer groups.
        """
        keys, connection, numbers = self._keys, self._store.current(), self._next_number()
        topics, groups, stored_version, count = await asyncio.gather(
            connection.execute("EXISTS", keys.topics),
            connection.execute("EXISTS", keys.groups),
            connection.execute("GET", keys.version),
            connection.execute("GET", keys.queue_numbers),
        )
        is_newer = int(stored_version or 0) > version  # a change is under way: the last group may be deleted
        found = {
            keys.topics: bool(topics),
            keys.groups: bool(groups) or not has_groups or is_newer,
            keys.version: int(stored_version or 0) >= version,
            keys.queue_numbers: int(count or 0) >= numbers,
        }
        return [key.decode() for key, is_there in found.items() if not is_there]

    async def put_group(self, config: SubscriptionGroupConfig) -> None:
        """Stores a consumer group. Raises StoreError."""
        await self._put(self._keys.groups, config.group_name, _text(msgspec.to_builtins(config)))

    async def put_again(
        self,
        connection: StoreConnection,
        version: int,
        topics: Collection[StoredTopic],
        groups: Iterable[SubscriptionGroupConfig],
    ) -> int:
        """Writes what the store lacks of these, after it was replaced by a server that had not all of it.

        Returns:
            The version of the store: a later one than ``version`` if there was anything to write.

        Raises:
            StoreError: the store is unavailable, or this master is fenced off.
        """
        pairs = [(topic.config.topic_name, _topic_text(topic.config, topic.queue_numbers)) for topic in topics]
        numbers = [number for topic in topics for number in topic.queue_numbers]
        args: list[Arg] = [version, max(numbers, default=-1) + 1, len(pairs)]
        pairs += [(group.group_name, _text(msgspec.to_builtins(group))) for group in groups]
        for pair in pairs:
            args += pair
        keys = self._keys
        if self._retired:
            retired: list[Arg] = []
            for name, last in self._retired.items():
                retired += (name, last)
            await self._store.call_over(connection, "put_retired", [keys.retired], retired)
        names = [keys.version, keys.queue_numbers, keys.topics, keys.groups]
        return int(await self._store.call_over(connection, "put_again", names, args))

    async def request_mode(self, group: str, topic: str) -> RequestMode:
        """How a group gets a topic's messages; PULL unless somebody said otherwise. Raises StoreError."""
        field = f"{group}:{topic}"
        value = await self._store.current_read().execute("HGET", self._keys.request_modes, field)
        if value is None:
            return RequestMode()
        try:
            return convert(self._load(self._keys.request_modes, field, value), RequestMode)  # type: ignore[no-any-return]
        except RemoteProtocolError as error:
            raise _damaged(self._keys.request_modes, field, error) from None

    async def put_request_mode(self, group: str, topic: str, mode: RequestMode) -> None:
        """Stores it. Raises StoreError."""
        await self._put(self._keys.request_modes, f"{group}:{topic}", _text(msgspec.to_builtins(mode)))

    async def _put(self, key: bytes, field: str, text: str) -> None:
        await self._store.call("put", [key, self._keys.version], [field, text])

    async def remove_topics(self, topics: list[str], queues: list[Queue], offsets: list[GroupTopic]) -> None:
        """Removes topics, their queues with what POP hid of them, and offsets in them. Raises StoreError."""
        await self._remove(self._keys.topics, topics, queues, offsets)
        for queue in queues:
            if queue.known_end:
                self._retire(queue.topic, queue.known_end)

    async def remove_group(self, group: str, topics: list[str]) -> None:
        """Removes a consumer group and the offsets that it has in ``topics``. Raises StoreError."""
        await self._remove(self._keys.groups, [group], [], [(group, topic) for topic in topics])

    async def _remove(self, key: bytes, fields: list[str], queues: list[Queue], offsets: list[GroupTopic]) -> None:
        keys = [key, self._keys.version, self._keys.consumed]
        keys += [self._keys.popped, self._keys.ordered, self._keys.retired]
        keys += [queue.key for queue in queues]
        keys += [self._keys.offsets(group, topic) for group, topic in offsets]
        args: list[Arg] = [len(fields), *fields, len(queues)]
        args += [f"{queue.topic}:{queue.queue_id}" for queue in queues]
        args += [f"{group}:{topic}" for group, topic in offsets]
        await self._store.call("remove", keys, args)


def _text(data: dict[str, Any]) -> str:
    return json.dumps(data, separators=(",", ":"), sort_keys=True)


def _topic_text(config: TopicConfig, queue_numbers: tuple[int, ...]) -> str:
    return _text(msgspec.to_builtins(config) | {"queueNumbers": queue_numbers})


def _damaged(key: bytes, field: str, error: RemoteProtocolError) -> StoreError:
    return StoreError(f"hash {key.decode()} field {field} is damaged: {error}")
