"""Random sequences of send, pop, acknowledge, hide longer, let expire, kill -9 and restart, against a model.

The broker is a process; the requests are raw ones that nobody repeats. Checked: every message whose send was answered
is delivered until it is acknowledged or a dead letter, none is delivered after its acknowledgement was answered in
time, none while it is hidden, and none is in two places.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

import pytest
import redis
from helpers import MODEL_EXAMPLES, BrokerClient, eventually, send_request
from hypothesis import HealthCheck, given, note, settings
from hypothesis import strategies as st
from processes import RoleProcess, broker, namesrv

from rmq_redis.codes import RequestCode, ResponseCode
from rmq_redis.errors import RmqError
from rmq_redis.protocol.command import RemotingCommand, request
from rmq_redis.protocol.headers.pop import (
    AckMessageRequestHeader,
    ChangeInvisibleTimeRequestHeader,
    ChangeInvisibleTimeResponseHeader,
    PopMessageRequestHeader,
    PopMessageResponseHeader,
)
from rmq_redis.protocol.pop import (
    BatchAck,
    PopHandle,
    encode_batch_acks,
    parse_handle,
    parse_offset_info,
    real_topic,
)
from rmq_redis.protocol.record import decode_records
from rmq_redis.store.embedded import EmbeddedServer

TOPIC, GROUP, QUEUES = "pop-model", "pop-model-group", 2
DEAD = f"%DLQ%{GROUP}"
RETRY_MAX_TIMES = 2
SHORT_MS, LONG_MS = 120, 600_000
DEADLINE_S = 120.0
_prefixes = count()

STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("send"), st.integers(0, QUEUES - 1), st.integers(1, 5)),
        st.tuples(st.just("pop"), st.integers(-1, QUEUES - 1), st.sampled_from([SHORT_MS, LONG_MS])),
        st.tuples(st.just("pop"), st.just(-1), st.sampled_from([SHORT_MS, LONG_MS])),
        st.tuples(st.just("ack"), st.integers(0, 3), st.booleans()),
        st.tuples(st.just("change"), st.integers(0, 3), st.sampled_from([0, SHORT_MS, LONG_MS])),
        st.tuples(st.just("expire"), st.just(0), st.just(0)),
        st.tuples(st.just("kill"), st.integers(0, QUEUES - 1), st.integers(0, 8)),
        st.tuples(st.just("restart"), st.just(0), st.just(0)),
    ),
    min_size=4,
    max_size=25,
)


def now_ms() -> int:
    return int(time.time() * 1000)


@dataclass
class Delivery:
    """What the model knows of the last delivery of a message."""

    handle: PopHandle
    visible_ms: int
    """Not delivered again before."""
    reconsume_times: int


@dataclass
class Model:
    certain: set[str] = field(default_factory=set)
    """Sent: the answer came."""
    possible: set[str] = field(default_factory=set)
    """Perhaps sent: the broker died before it answered."""
    out: dict[str, Delivery] = field(default_factory=dict)
    """Delivered, and no acknowledgement was answered."""
    done: set[str] = field(default_factory=set)
    """Acknowledged: the answer came before the message could be visible again."""
    perhaps_done: set[str] = field(default_factory=set)
    """Acknowledged, but too late or without an answer: may come again or not."""


class Run:
    def __init__(self, store: str, names: str, log_dir: Path) -> None:
        self.model = Model()
        self._bodies = (f"m{number}" for number in count())
        self._key_prefix = f"popmodel{next(_prefixes)}"
        self._start = lambda port: broker(store, names, log_dir, "--port", port, key_prefix=self._key_prefix)
        self._process: RoleProcess = self._start("0").wait_until_serving()
        self._client = BrokerClient(self._process.address)
        self._store = store

    async def begin(self) -> None:
        config = {"groupName": GROUP, "retryMaxTimes": RETRY_MAX_TIMES}
        await self._client.ok(
            request(RequestCode.UPDATE_AND_CREATE_SUBSCRIPTIONGROUP, body=json.dumps(config).encode())
        )
        await self.send(0, 1)  # makes the topic

    async def close(self) -> None:
        await self._client.close()
        self._process.kill()

    async def _come_back(self) -> None:
        await self._client.close()
        self._process = self._start(self._process.port)
        await asyncio.to_thread(self._process.wait_until_serving)
        self._client = BrokerClient(self._process.address)

    # --- requests ----------------------------------------------------------------------------------------------------

    def _send(self, queue_id: int, body: str) -> RemotingCommand:
        properties = f"UNIQ_KEY\x01{body}\x02"
        return send_request(TOPIC, body.encode(), queue_id=queue_id, properties=properties, default_topic_queue_nums=2)

    def _pop(self, queue_id: int, invisible_ms: int, poll_ms: int = 0) -> RemotingCommand:
        header = PopMessageRequestHeader(
            consumer_group=GROUP,
            topic=TOPIC,
            queue_id=queue_id,
            max_msg_nums=4,
            invisible_time=invisible_ms,
            poll_time=poll_ms,
            born_time=0,  # never too late, however slow the machine
        )
        return request(RequestCode.POP_MESSAGE, header)

    def _ack(self, handle: PopHandle) -> RemotingCommand:
        topic = real_topic(GROUP, TOPIC, handle.mark)
        header = AckMessageRequestHeader(
            consumer_group=GROUP,
            topic=topic,
            queue_id=handle.queue_id,
            extra_info=handle.text(),
            offset=handle.queue_offset,
        )
        return request(RequestCode.ACK_MESSAGE, header)

    def _ack_all(self, handles: Sequence[PopHandle]) -> RemotingCommand:
        acks = [
            BatchAck(
                GROUP,
                TOPIC,
                handle.mark,
                handle.queue_offset,
                handle.queue_id,
                handle.revive_qid,
                handle.pop_time_ms,
                handle.invisible_time_ms,
                (handle.queue_offset,),
            )
            for handle in handles
        ]
        return request(RequestCode.BATCH_ACK_MESSAGE, body=encode_batch_acks("broker-a", acks))

    # --- what answers say --------------------------------------------------------------------------------------------

    def _delivered(self, answer: RemotingCommand) -> int:
        """Takes note of the messages of an answer to a POP; how many there were."""
        if answer.code != ResponseCode.SUCCESS:
            assert answer.code == ResponseCode.POLLING_TIMEOUT, answer.remark
            return 0
        header = answer.header(PopMessageResponseHeader)
        starts = parse_offset_info(header.start_offset_info)
        messages = decode_records(answer.body)
        bodies = [message.text() for message in messages]
        assert len(set(bodies)) == len(bodies), f"twice in one answer: {bodies}"
        for message in messages:
            body = message.text()
            if "POP_CK" in message.properties:
                handle = parse_handle(message.properties["POP_CK"])
            else:
                times = header.pop_time, header.invisible_time, header.revive_qid
                start = starts["0", message.queue_id][0]
                handle = PopHandle(start, *times, "0", "broker-a", message.queue_id, message.queue_offset)
            assert (handle.mark == "0") == (message.reconsume_times == 0), f"{body} came from the wrong topic"
            assert message.topic == TOPIC
            assert message.reconsume_times <= RETRY_MAX_TIMES, f"{body} is one for the dead letters"
            assert body in self.model.certain | self.model.possible, f"{body}: nobody sent it"
            assert body not in self.model.done, f"{body} was acknowledged and came again"
            before = self.model.out.get(body)
            if before is not None:
                # By our clock, which is the broker's: its popTime is from before it looked for messages.
                assert now_ms() >= before.visible_ms, f"{body} came while it was hidden"
                assert message.reconsume_times > before.reconsume_times, f"{body} is in two places"
            self.model.out[body] = Delivery(handle, handle.visible_ms, message.reconsume_times)
        return len(messages)

    def _pop_lost(self) -> None:
        """A POP got no answer: what it took comes again when its time is over."""

    def _acknowledged(self, bodies: Sequence[str], *, answered: bool) -> None:
        """After an answer, or none. It was in time if the message could not be visible yet when the answer was here."""
        now = now_ms()
        for body in bodies:
            if answered and now < self.model.out[body].visible_ms:
                self.model.done.add(body)
                del self.model.out[body]
            else:
                self.model.perhaps_done.add(body)

    def _chosen(self, nums: int) -> list[str]:
        return sorted(self.model.out)[:nums]

    # --- steps -------------------------------------------------------------------------------------------------------

    async def step(self, kind: str, where: int, what: int) -> None:
        await getattr(self, kind)(where, what)

    async def send(self, queue_id: int, nums: int) -> None:
        for _ in range(nums):
            body = next(self._bodies)
            await self._client.ok(self._send(queue_id, body))
            self.model.certain.add(body)

    async def pop(self, queue_id: int, invisible_ms: int) -> None:
        self._delivered(await self._client.ask(self._pop(queue_id, invisible_ms)))

    async def ack(self, nums: int, batch: bool) -> None:
        bodies = self._chosen(nums)
        handles = [self.model.out[body].handle for body in bodies]
        if batch and bodies:
            await self._client.ok(self._ack_all(handles))
        else:
            await asyncio.gather(*(self._client.ok(self._ack(handle)) for handle in handles))
        self._acknowledged(bodies, answered=True)

    async def change(self, nums: int, invisible_ms: int) -> None:
        for body in self._chosen(nums):
            known = self.model.out[body]
            handle = known.handle
            header = ChangeInvisibleTimeRequestHeader(
                consumer_group=GROUP,
                topic=real_topic(GROUP, TOPIC, handle.mark),
                queue_id=handle.queue_id,
                extra_info=handle.text(),
                offset=handle.queue_offset,
                invisible_time=invisible_ms,
            )
            answer = await self._client.ask(request(RequestCode.CHANGE_MESSAGE_INVISIBLETIME, header))
            if answer.code != ResponseCode.SUCCESS:
                assert answer.code == ResponseCode.NO_MESSAGE, answer.remark
                assert now_ms() >= known.visible_ms or body in self.model.perhaps_done, f"{body}: its handle was good"
                continue
            given = answer.header(ChangeInvisibleTimeResponseHeader)
            known.handle = PopHandle(
                handle.start_offset,
                given.pop_time,
                given.invisible_time,
                given.revive_qid,
                handle.mark,
                handle.broker_name,
                handle.queue_id,
                handle.queue_offset,
            )
            known.visible_ms = known.handle.visible_ms

    async def expire(self, *_: object) -> None:
        """Lets the short times end: nothing that is hidden is due."""
        with redis.Redis.from_url(self._store) as client:
            key = f"{self._key_prefix}:{{broker-a}}:popped"
            await eventually(
                lambda: not client.zcount(key, "-inf", now_ms() + SHORT_MS), "what expired is back", DEADLINE_S
            )

    async def kill(self, queue_id: int, burst: int) -> None:
        """kill -9, with sends, a pop and acknowledgements on their way whose answers may come or not."""
        sent = [next(self._bodies) for _ in range(burst)]
        acked = self._chosen(burst // 2)
        sends = [asyncio.ensure_future(self._client.ok(self._send(queue_id, body))) for body in sent]
        acks = [asyncio.ensure_future(self._client.ok(self._ack(self.model.out[body].handle))) for body in acked]
        pops = [asyncio.ensure_future(self._client.ask(self._pop(-1, SHORT_MS))) for _ in range(bool(burst))]
        tasks: list[asyncio.Future[RemotingCommand]] = [*sends, *acks, *pops]
        if tasks:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        await asyncio.to_thread(self._process.kill)
        answers = await asyncio.gather(*tasks, return_exceptions=True)
        for answer in answers:
            if isinstance(answer, BaseException) and not isinstance(answer, RmqError):
                raise answer
        for body, answer in zip(sent, answers[: len(sent)], strict=True):
            (self.model.possible if isinstance(answer, RmqError) else self.model.certain).add(body)
        for body, answer in zip(acked, answers[len(sent) : len(sent) + len(acked)], strict=True):
            self._acknowledged([body], answered=not isinstance(answer, RmqError))
        for answer in answers[len(sent) + len(acked) :]:
            if isinstance(answer, RemotingCommand):
                # What this very burst sent may be in it, and what it acknowledged too late.
                self._delivered(answer)
            else:
                self._pop_lost()
        await self._come_back()

    async def restart(self, *_: object) -> None:
        assert await asyncio.to_thread(self._process.stop) == 0
        await self._come_back()

    # --- the end -----------------------------------------------------------------------------------------------------

    async def _drained(self, client: redis.Redis) -> bool:
        """Pops and acknowledges what there is; whether nothing is left. That nothing is hidden is looked at first: what
        became visible between the two would be neither hidden nor popped.
        """
        hidden = client.zcard(f"{self._key_prefix}:{{broker-a}}:popped")
        taken = 0
        while nums := self._delivered(await self._client.ask(self._pop(-1, LONG_MS))):
            taken += nums
            await self.ack(len(self.model.out), True)
        return not hidden and not taken

    async def check(self) -> None:
        await self.change(len(self.model.out), 0)  # gives all back at once
        with redis.Redis.from_url(self._store) as client:
            await eventually(lambda: self._drained(client), "all is acknowledged", DEADLINE_S)
            for key in client.scan_iter(f"{self._key_prefix}:{{broker-a}}:queue:*"):
                assert all(group["pending"] == 0 for group in client.xinfo_groups(key)), f"{key!r} has pending entries"
        dead = Counter(await self._client.pull_all(DEAD, group="reader")) if await self._has_dead() else Counter()
        stored = Counter([text for q in range(QUEUES) for text in await self._client.pull_all(TOPIC, queue_id=q)])
        model = self.model
        note(f"sent {len(model.certain)} + {len(model.possible)}?, done {len(model.done)}, dead {len(dead)}")
        assert max((dead | stored).values()) == 1, "a message is stored twice"
        assert model.certain <= stored.keys() <= model.certain | model.possible
        assert not model.done & dead.keys(), "an acknowledged message is a dead letter"
        lost = model.certain - model.done - model.perhaps_done - dead.keys()
        assert not lost, f"never delivered until acknowledged: {sorted(lost)}"

    async def _has_dead(self) -> bool:
        return (await self._client.pull(DEAD, 0, group="reader")).code == ResponseCode.SUCCESS


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str, Path]]:
    """(store URL, NameServer address, log directory)"""
    log_dir = tmp_path_factory.mktemp("pop-model")
    with EmbeddedServer(log_dir / "store") as store, namesrv(store.url, log_dir) as names:
        yield store.url, names.address, log_dir


@settings(
    max_examples=MODEL_EXAMPLES, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
)
@given(steps=STEPS)
def test_no_message_is_lost_or_redelivered_after_its_ack(
    servers: tuple[str, str, Path], steps: list[tuple[str, int, int]]
) -> None:
    async def main() -> None:
        run = Run(*servers)
        try:
            await run.begin()
            for step in (*steps, ("kill", 0, 4)):
                await run.step(*step)
            await run.check()
        finally:
            await run.close()

    asyncio.run(main())
