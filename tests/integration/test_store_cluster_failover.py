"""A Redis Cluster whose shards have a replica each: one shard's primary goes while all groups are at work."""

from __future__ import annotations

import asyncio
import os
import signal
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import redis
from cluster_support import Shards, names_by_shard
from helpers import BrokerClient, Connect, StartBroker, eventually, send_request

from rmq_redis.broker.broker import Broker
from rmq_redis.codes import RequestCode, ResponseCode
from rmq_redis.model import MASTER_ID
from rmq_redis.protocol.command import request
from rmq_redis.protocol.headers.admin import CreateTopicRequestHeader
from rmq_redis.protocol.headers.send import SendMessageResponseHeader
from rmq_redis.store.embedded import EmbeddedServer

LONG_S = 90.0
QUEUES = 4
STORED = (
    ResponseCode.SUCCESS,
    ResponseCode.FLUSH_DISK_TIMEOUT,
    ResponseCode.SLAVE_NOT_AVAILABLE,
    ResponseCode.FLUSH_SLAVE_TIMEOUT,
)


@pytest.fixture
async def shards(tmp_path: Path, embedded_server: EmbeddedServer) -> AsyncIterator[Shards]:
    made = Shards(tmp_path, with_replicas=True, full_coverage=False)
    try:
        await eventually(made.is_ready, timeout_s=LONG_S)
        yield made
    finally:
        if made.servers[0].pid:
            os.kill(made.servers[0].pid, signal.SIGCONT)
        made.kill()


class Load:
    """Sends to and pulls from every queue of one broker without a pause, and what became of it.

    Attributes:
        confirmed: place (queueId, offset) of each message answered with SUCCESS.
        stored: how many were answered with a place, confirmed or not.
        refused: how often each other code was answered, to a send or to a pull.
        pulled: what was pulled from where.
        held: what a place was ever said to hold, by an answer or by a pull.
    """

    def __init__(self, broker: Broker, connect: Connect) -> None:
        self.broker = broker
        self.connection = broker.parts.state.queue_store._writes.connection
        self.epoch = broker.parts.state.queue_store.epoch
        self.client = connect(broker)
        self.confirmed: dict[tuple[int, int], str] = {}
        self.stored = 0
        self.refused: Counter[int] = Counter()
        self.pulled: dict[tuple[int, int], str] = {}
        self.held: dict[tuple[int, int], str] = {}
        self._ended = False
        clients = [connect(broker) for _ in range(2 * QUEUES)]
        self._senders = [asyncio.ensure_future(self._send(clients.pop(), i)) for i in range(QUEUES)]
        self._pullers = [asyncio.ensure_future(self._pull(clients.pop(), i)) for i in range(QUEUES)]

    def _holds(self, place: tuple[int, int], body: str) -> None:
        assert self.held.setdefault(place, body) == body, f"{place} was given out twice"

    async def _send(self, client: BrokerClient, queue_id: int) -> None:
        number = 0
        while not self._ended:
            body = f"{queue_id}-{number}"
            number += 1
            answer = await client.ask(send_request("T", body.encode(), queue_id=queue_id), timeout_s=LONG_S)
            if answer.code not in STORED:
                self.refused[answer.code] += 1
                await asyncio.sleep(0.01)
                continue
            place = queue_id, answer.header(SendMessageResponseHeader).queue_offset
            self._holds(place, body)
            self.stored += 1
            if answer.code == ResponseCode.SUCCESS:
                self.confirmed[place] = body

    async def _pull(self, client: BrokerClient, queue_id: int) -> None:
        offset = 0
        while True:
            pulled = await client.pull("T", offset, queue_id=queue_id, suspend_ms=100)
            if pulled.code == ResponseCode.SUCCESS:
                for message in pulled.messages:
                    assert message.queue_offset >= offset
                    offset = message.queue_offset + 1
                    place = queue_id, message.queue_offset
                    self._holds(place, message.text())
                    self.pulled[place] = message.text()
                offset = pulled.header.next_begin_offset
            elif pulled.code == ResponseCode.PULL_NOT_FOUND:
                if self._ended and all(task.done() for task in self._senders):
                    return
            else:
                self.refused[pulled.code] += 1
                await asyncio.sleep(0.01)

    async def more(self, what: str, count: int = 100) -> None:
        """Waits until ``confirmed``, ``stored`` and so on have grown by so many."""

        def size() -> int:
            for task in (*self._senders, *self._pullers):
                if task.done():
                    task.result()
            value = getattr(self, what)
            return value if isinstance(value, int) else len(value)

        before = size()
        await eventually(lambda: size() >= before + count, f"{count} more {what}, had {before}", timeout_s=LONG_S)

    async def end(self) -> None:
        """Ends the sends, and the pulls when they are at the end of their queues."""
        self._ended = True
        await asyncio.gather(*self._senders, *self._pullers)


async def start_load(start_broker: StartBroker, connect: Connect, url: str, name: str) -> Load:
    broker = await start_broker(store=url, broker_name=name, broker_role="SYNC_MASTER")
    header = CreateTopicRequestHeader("T", QUEUES, QUEUES, 6)
    await connect(broker).ok(request(RequestCode.UPDATE_AND_CREATE_TOPIC, header))
    return Load(broker, connect)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
async def test_lost_primary_pauses_only_its_own_group(
    shards: Shards, start_broker: StartBroker, connect: Connect, how: signal.Signals
) -> None:
    name, *names = names_by_shard()
    only = f"redis+cluster://127.0.0.1:{shards.servers[0].port}"  # of the cluster, the broker is told this server only
    hit = await start_load(start_broker, connect, only, name)
    others = [await start_load(start_broker, connect, shards.url, other) for other in names]
    for load in (hit, *others):
        await load.more("confirmed")
        await load.more("pulled")
    os.kill(shards.servers[0].pid, how)
    await eventually(lambda: shards.role(shards.replicas[0]) == "master", "the replica is promoted", timeout_s=LONG_S)
    await hit.more("stored")
    await hit.more("pulled")
    assert hit.refused  # there was a pause
    if how == signal.SIGKILL:
        shards.servers[0].kill()  # takes note of its end
        shards.servers[0].start()
    else:
        os.kill(shards.servers[0].pid, signal.SIGCONT)
    await hit.more("confirmed")  # the promoted one has a replica again
    assert shards.role(shards.servers[0]) == "slave"
    for load in others:
        await load.more("confirmed")
    for load in (hit, *others):
        await load.end()

    for load in (hit, *others):
        assert load.broker.broker_id == MASTER_ID
        stored = await stored_at(load.client)
        assert load.confirmed.items() <= stored.items(), "a confirmed message is not there, or not where it was"
        assert load.confirmed.items() <= load.pulled.items(), "a confirmed message was not pulled"
        for place, body in load.held.items():
            assert stored.get(place, body) == body
        for queue_id in range(QUEUES):
            numbers = [int(body.split("-")[1]) for (at, _), body in sorted(stored.items()) if at == queue_id]
            assert numbers == sorted(set(numbers)), "a message is there twice, or behind a later one"
    for load in others:
        assert not load.refused
        assert load.stored == len(load.confirmed)
        assert load.broker.parts.state.queue_store._writes.connection is load.connection
        assert load.broker.parts.state.queue_store.epoch == load.epoch
    key = hit.broker.parts.state.queue_store.keys.queue("T", 0)
    with redis.Redis.from_url(shards.replicas[0].url) as promoted:
        assert promoted.xlen(key) >= sum(queue_id == 0 for queue_id, _ in hit.confirmed)


async def stored_at(client: BrokerClient) -> dict[tuple[int, int], str]:
    """All messages by their places."""
    found: dict[tuple[int, int], str] = {}
    for queue_id in range(QUEUES):
        offset = 0
        while (pulled := await client.pull("T", offset, queue_id=queue_id)).code == ResponseCode.SUCCESS:
            found |= {(queue_id, message.queue_offset): message.text() for message in pulled.messages}
            offset = pulled.header.next_begin_offset
        assert pulled.code == ResponseCode.PULL_NOT_FOUND
    return found
