"""Random sequences of send, consume, fail, crash and restart, against a model of what must be there in the end.

The broker is a process that is killed with -9; the requests are raw ones that nobody repeats, so each happened once, or
(when the broker died before its answer) once or not at all. Checked: no acknowledged message is lost, none is in two
places, none is where nobody sent it, no queue is out of order, and what was read at an offset stays what it was.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

import pytest
import redis
from helpers import MODEL_EXAMPLES, BrokerClient, eventually, pull_request, send_request
from hypothesis import HealthCheck, given, note, settings
from hypothesis import strategies as st
from processes import RoleProcess, broker, namesrv

from rmq_redis.codes import RequestCode, ResponseCode
from rmq_redis.errors import RmqError
from rmq_redis.model import MessageExt
from rmq_redis.protocol.batch import encode_batch_item
from rmq_redis.protocol.command import request
from rmq_redis.protocol.headers.offsets import (
    OffsetResponseHeader,
    QueryConsumerOffsetRequestHeader,
    UpdateConsumerOffsetRequestHeader,
)
from rmq_redis.protocol.headers.send import ConsumerSendMsgBackRequestHeader, SendMessageResponseHeader
from rmq_redis.protocol.headers.transaction import EndTransactionRequestHeader
from rmq_redis.protocol.ids import parse_offset_msg_id
from rmq_redis.protocol.record import decode_records
from rmq_redis.store.embedded import EmbeddedServer

TOPIC, GROUP, QUEUES = "model", "model-group", 2
RETRY, DEAD = f"%RETRY%{GROUP}", f"%DLQ%{GROUP}"
PLACES = [*((TOPIC, queue_id) for queue_id in range(QUEUES)), (RETRY, 0), (DEAD, 0)]
MAX_RECONSUME_TIMES = 1
COMMIT, ROLLBACK = 8, 12
_prefixes = count()

Incarnation = tuple[str, int]
"""(body, how often it was consumed in vain): one message, once."""
Place = tuple[str, int]
"""(topic, queue id)"""

STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("send"), st.integers(0, QUEUES - 1), st.integers(1, 4)),
        st.tuples(st.just("batch"), st.integers(0, QUEUES - 1), st.integers(1, 4)),
        st.tuples(
            st.just("delay"), st.integers(0, QUEUES - 1), st.sampled_from(["TIMER_DELAY_MS\x01200", "DELAY\x011"])
        ),
        st.tuples(st.just("transaction"), st.integers(0, QUEUES - 1), st.sampled_from([COMMIT, ROLLBACK])),
        st.tuples(st.just("consume"), st.sampled_from(PLACES[:-1]), st.lists(st.booleans(), min_size=1, max_size=4)),
        st.tuples(st.just("peek"), st.sampled_from(PLACES), st.just(0)),
        st.tuples(st.just("kill"), st.integers(0, QUEUES - 1), st.integers(0, 40)),
        st.tuples(st.just("restart"), st.just(0), st.just(0)),
    ),
    min_size=3,
    max_size=25,
)


@dataclass
class Model:
    """What was asked for, and what the answers promised."""

    certain: set[Incarnation] = field(default_factory=set)
    """Must be there, once."""
    possible: set[Incarnation] = field(default_factory=set)
    """May be there, once: the broker died before it answered."""
    order: dict[Place, list[str]] = field(default_factory=lambda: {place: [] for place in PLACES})
    """Bodies in the order of their answers, of what goes to its queue at once."""
    at: dict[tuple[Place, int], Incarnation] = field(default_factory=dict)
    """What an answer or a pull said is at an offset."""
    committed: dict[Place, int] = field(default_factory=dict)


class Run:
    """One broker group, its model, and the steps."""

    def __init__(self, store: str, names: str, log_dir: Path) -> None:
        self.model = Model()
        self._bodies = (f"m{number}" for number in count())
        self._key_prefix = f"model{next(_prefixes)}"
        lazy = ("--offset-flush-period-s", "60")  # so that only what an answer promises is written
        self._start = lambda port: broker(store, names, log_dir, "--port", port, *lazy, key_prefix=self._key_prefix)
        self._process: RoleProcess = self._start("0").wait_until_serving()
        self._client = BrokerClient(self._process.address)
        self._store = store

    async def close(self) -> None:
        await self._client.close()
        self._process.kill()

    async def _come_back(self) -> None:
        await self._client.close()
        self._process = self._start(self._process.port)
        await asyncio.to_thread(self._process.wait_until_serving)
        self._client = BrokerClient(self._process.address)

    async def step(self, kind: str, where: object, what: object) -> None:
        await getattr(self, kind)(where, what)

    # --- steps -------------------------------------------------------------------------------------------------------

    def _properties(self, body: str, more: str = "") -> str:
        return f"UNIQ_KEY\x01{body}\x02" + (f"{more}\x02" if more else "")

    async def send(self, queue_id: int, nums: int) -> None:
        for _ in range(nums):
            body = next(self._bodies)
            answer = await self._client.ok(
                send_request(TOPIC, body.encode(), queue_id=queue_id, properties=self._properties(body))
            )
            self._stored(queue_id, answer.header(SendMessageResponseHeader).queue_offset, [body])

    async def batch(self, queue_id: int, nums: int) -> None:
        bodies = [next(self._bodies) for _ in range(nums)]
        items = b"".join(encode_batch_item(body.encode(), self._properties(body).encode(), 0) for body in bodies)
        command = send_request(
            TOPIC, items, queue_id=queue_id, properties="", code=RequestCode.SEND_BATCH_MESSAGE, batch=True
        )
        answer = await self._client.ok(command)
        self._stored(queue_id, answer.header(SendMessageResponseHeader).queue_offset, bodies)

    def _stored(self, queue_id: int, offset: int, bodies: list[str]) -> None:
        place = TOPIC, queue_id
        self.model.order[place] += bodies
        for index, body in enumerate(bodies):
            self.model.certain.add((body, 0))
            self._see(place, offset + index, (body, 0))

    def _see(self, place: Place, offset: int, incarnation: Incarnation) -> None:
        known = self.model.at.setdefault((place, offset), incarnation)
        assert known == incarnation, f"{place} offset {offset} was {known} and is {incarnation}"

    async def delay(self, queue_id: int, prop: str) -> None:
        body = next(self._bodies)
        await self._client.ok(
            send_request(TOPIC, body.encode(), queue_id=queue_id, properties=self._properties(body, prop))
        )
        self.model.certain.add((body, 0))

    async def transaction(self, queue_id: int, decision: int) -> None:
        body = next(self._bodies)
        properties = self._properties(body, "TRAN_MSG\x01true\x02PGROUP\x01PG")
        answer = await self._client.ok(
            send_request(TOPIC, body.encode(), queue_id=queue_id, properties=properties, sys_flag=4)
        )
        half = answer.header(SendMessageResponseHeader)
        header = EndTransactionRequestHeader(
            "PG", half.queue_offset, parse_offset_msg_id(half.msg_id)[1], decision, msg_id=body
        )
        await self._client.ok(request(RequestCode.END_TRANSACTION, header))
        if decision == COMMIT:
            self.model.certain.add((body, 0))

    async def consume(self, place: Place, successes: list[bool]) -> None:
        """Reads on from the committed offset; what fails is sent back, the rest is done; commits."""
        topic, queue_id = place
        offset = await self._committed(place)
        pulled = await self._client.pull(topic, offset, group=GROUP, queue_id=queue_id, max_msg_nums=len(successes))
        for message, success in zip(pulled.messages, successes, strict=False):
            self._see(place, message.queue_offset, (message.text(), message.reconsume_times))
            assert message.queue_offset == offset
            if not success:
                await self._send_back(message)
            offset += 1
        if pulled.messages:
            header = UpdateConsumerOffsetRequestHeader(GROUP, topic, queue_id, offset)
            await self._client.ok(request(RequestCode.UPDATE_CONSUMER_OFFSET, header))
            self.model.committed[place] = offset

    async def _committed(self, place: Place) -> int:
        header = QueryConsumerOffsetRequestHeader(GROUP, *place)
        answer = await self._client.ask(request(RequestCode.QUERY_CONSUMER_OFFSET, header))
        offset = 0 if answer.code == ResponseCode.QUERY_NOT_FOUND else answer.header(OffsetResponseHeader).offset
        assert offset == self.model.committed.get(place, 0), "an acknowledged commit is lost"
        return offset

    async def _send_back(self, message: MessageExt) -> None:
        header = ConsumerSendMsgBackRequestHeader(
            message.commit_log_offset, GROUP, 1, message.msg_id, TOPIC, max_reconsume_times=MAX_RECONSUME_TIMES
        )
        await self._client.ok(request(RequestCode.CONSUMER_SEND_MSG_BACK, header))
        self.model.certain.add((message.text(), message.reconsume_times + 1))

    async def peek(self, place: Place, _: object) -> None:
        for message in await self._read(place):
            self._see(place, message.queue_offset, (message.text(), message.reconsume_times))

    async def kill(self, queue_id: int, burst: int) -> None:
        """kill -9, with ``burst`` sends on their way whose answers may come or not."""
        bodies = [next(self._bodies) for _ in range(burst)]
        sends = [
            asyncio.ensure_future(
                self._client.ok(
                    send_request(TOPIC, body.encode(), queue_id=queue_id, properties=self._properties(body))
                )
            )
            for body in bodies
        ]
        if sends:
            await asyncio.wait(sends[: burst // 2 + 1], return_when=asyncio.FIRST_COMPLETED)
        await asyncio.to_thread(self._process.kill)
        answers = await asyncio.gather(*sends, return_exceptions=True)
        for body, answer in zip(bodies, answers, strict=True):
            if isinstance(answer, RmqError):
                self.model.possible.add((body, 0))
            elif isinstance(answer, BaseException):
                raise answer
            else:
                self._stored(queue_id, answer.header(SendMessageResponseHeader).queue_offset, [body])
        await self._come_back()

    async def restart(self, *_: object) -> None:
        assert await asyncio.to_thread(self._process.stop) == 0
        await self._come_back()

    # --- the end -----------------------------------------------------------------------------------------------------

    async def _read(self, place: Place) -> list[MessageExt]:
        topic, queue_id = place
        messages: list[MessageExt] = []
        while True:
            command = pull_request(topic, len(messages), group="model-reader", queue_id=queue_id)
            answer = await self._client.ask(command)
            if answer.code != ResponseCode.SUCCESS:
                assert answer.code in (ResponseCode.PULL_NOT_FOUND, ResponseCode.TOPIC_NOT_EXIST), answer.remark
                return messages
            messages += decode_records(answer.body)

    async def check(self) -> None:
        with redis.Redis.from_url(self._store) as client:
            waiting = f"{self._key_prefix}:{{broker-a}}:scheduled"
            await eventually(lambda: not client.zcard(waiting), "everything that was due is in its queue")
            assert not client.hlen(f"{self._key_prefix}:{{broker-a}}:half"), "a decided transaction is still there"
        found: Counter[Incarnation] = Counter()
        for place in PLACES:
            await self._committed(place)
            messages = await self._read(place)
            assert [message.queue_offset for message in messages] == list(range(len(messages))), "offsets have a gap"
            for message in messages:
                incarnation = message.text(), message.reconsume_times
                self._see(place, message.queue_offset, incarnation)
                found[incarnation] += 1
                assert (place[0] == TOPIC) == (message.reconsume_times == 0)
                assert (place[0] == DEAD) == (message.reconsume_times > MAX_RECONSUME_TIMES)
            bodies = [message.text() for message in messages]
            acknowledged = set(self.model.order[place])
            assert [body for body in bodies if body in acknowledged] == self.model.order[place], f"{place}: order"
        note(f"found {sorted(found)}")
        assert max(found.values(), default=1) == 1, "a message is in two places"
        assert self.model.certain <= found.keys(), "an acknowledged message is lost"
        assert found.keys() <= self.model.certain | self.model.possible, "a message that nobody sent"


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str, Path]]:
    """(store URL, NameServer address, log directory)"""
    log_dir = tmp_path_factory.mktemp("model")
    with EmbeddedServer(log_dir / "store") as store, namesrv(store.url, log_dir) as names:
        yield store.url, names.address, log_dir


@settings(
    max_examples=MODEL_EXAMPLES, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
)
@given(steps=STEPS)
def test_no_message_is_lost_duplicated_or_out_of_order(
    servers: tuple[str, str, Path], steps: list[tuple[str, object, object]]
) -> None:
    async def main() -> None:
        run = Run(*servers)
        try:
            for step in (*steps, ("kill", 0, 0)):
                await run.step(*step)
            await run.check()
        finally:
            await run.close()

    asyncio.run(main())
