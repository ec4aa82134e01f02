"""Random steps of POPs in order, as in test_pop_model, against a model of their own.

Checked at every delivery: all before it in its queue is acknowledged or a dead letter, nothing of the queue is with
anybody else, nothing acknowledged is in it, and its count is higher than before; at the end: nothing was lost, and
nothing is out. A broker is killed with sends, acknowledgements and POPs on their way.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import count, pairwise
from pathlib import Path

import redis
from helpers import MODEL_EXAMPLES, eventually
from hypothesis import HealthCheck, example, given, note, settings
from hypothesis import strategies as st
from test_pop_model import (
    DEAD,
    DEADLINE_S,
    GROUP,
    LONG_MS,
    QUEUES,
    RETRY_MAX_TIMES,
    SHORT_MS,
    TOPIC,
    Delivery,
    Run,
    now_ms,
    servers,
)

from rmq_redis.client.consume.simple import received
from rmq_redis.codes import RequestCode, ResponseCode
from rmq_redis.protocol.command import RemotingCommand, request
from rmq_redis.protocol.headers.pop import (
    ChangeInvisibleTimeRequestHeader,
    ChangeInvisibleTimeResponseHeader,
    PopMessageRequestHeader,
)
from rmq_redis.protocol.pop import PopHandle, parse_handle

__all__ = ["servers"]  # the fixture

STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("send"), st.integers(0, QUEUES - 1), st.integers(1, 5)),
        st.tuples(st.just("pop"), st.integers(-1, QUEUES - 1), st.integers(0, 7)),
        st.tuples(st.just("pop"), st.just(-1), st.integers(0, 7)),
        st.tuples(st.just("repeat"), st.just(-1), st.integers(0, 7)),
        st.tuples(st.just("ack"), st.integers(0, 4), st.booleans()),
        st.tuples(st.just("ack"), st.integers(0, 4), st.booleans()),
        st.tuples(st.just("change"), st.integers(0, 3), st.sampled_from([0, SHORT_MS, LONG_MS])),
        st.tuples(st.just("expire"), st.just(0), st.just(0)),
        st.tuples(st.just("kill"), st.integers(0, QUEUES - 1), st.integers(0, 8)),
        st.tuples(st.just("restart"), st.just(0), st.just(0)),
    ),
    min_size=4,
    max_size=30,
)

Place = tuple[int, int]
"""(queue id, queue offset)"""


@dataclass
class OrderedDelivery(Delivery):
    attempt: str
    lost_pops: int
    """POPs without an answer before it."""
    stale: bool = False
    """The POP was repeated, and wanted less."""


@dataclass
class Places:
    """What is known of the queues."""

    ended: set[Place] = field(default_factory=set)
    """Acknowledged, certainly or perhaps."""
    tries: dict[Place, int] = field(default_factory=dict)
    """How often each was given out, as far as we know: a POP without an answer may have added one."""
    pop_ms: dict[int, int] = field(default_factory=dict)
    """Of the last batch of each queue that we know of."""


class OrderRun(Run):
    def __init__(self, store: str, names: str, log_dir: Path) -> None:
        super().__init__(store, names, log_dir)
        self._places = Places()
        self._attempts = (f"attempt {number}; of the model" for number in count())
        self._attempt = ""
        self._lost_pops = 0
        self._nums = 4
        self._last_bodies: list[str] = []

    # --- requests ----------------------------------------------------------------------------------------------------

    def _pop(self, queue_id: int, invisible_ms: int, poll_ms: int = 0) -> RemotingCommand:
        header = PopMessageRequestHeader(
            consumer_group=GROUP,
            topic=TOPIC,
            queue_id=queue_id,
            max_msg_nums=self._nums,
            invisible_time=invisible_ms,
            poll_time=poll_ms,
            order=True,
            attempt_id=self._attempt,
        )
        return request(RequestCode.POP_MESSAGE, header)

    async def pop(self, queue_id: int, what: int) -> None:
        self._attempt = next(self._attempts)
        await self.repeat(queue_id, what)

    async def repeat(self, queue_id: int, what: int) -> None:
        """As the last POP, whose answer may have been lost."""
        self._nums = 1 + what // 2
        self._delivered(await self._client.ask(self._pop(queue_id, (SHORT_MS, LONG_MS)[what % 2])))

    async def kill(self, queue_id: int, burst: int) -> None:
        self._attempt, self._nums = next(self._attempts), 4
        await super().kill(queue_id, burst)

    # --- what answers say --------------------------------------------------------------------------------------------

    def _pop_lost(self) -> None:
        self._lost_pops += 1

    def _may_be_dead(self, place: Place) -> bool:
        return self._places.tries.get(place, 0) + self._lost_pops > RETRY_MAX_TIMES

    def _delivered(self, answer: RemotingCommand) -> int:
        if answer.code != ResponseCode.SUCCESS:
            assert answer.code == ResponseCode.POLLING_TIMEOUT, answer.remark
            return 0
        now = now_ms()
        messages = received(answer, TOPIC, "broker-a")
        places = [(message.queue_id, message.queue_offset) for message in messages]
        assert all(a < b for a, b in pairwise(places) if a[0] == b[0]), f"not in order: {places}"
        assert len(set(places)) == len(places)
        for queue_id in {queue_id for queue_id, _ in places}:
            here = [place for place in places if place[0] == queue_id]
            between = {(queue_id, offset) for offset in range(here[-1][1])} - set(here)
            skipped = sorted(p for p in between if p not in self._places.ended and not self._may_be_dead(p))
            assert not skipped, f"{here} came before {skipped}"
        repeated: set[str] = set()
        for message in messages:
            before = self.model.out.get(message.text())
            handle = parse_handle(message.properties["POP_CK"])
            if isinstance(before, OrderedDelivery) and before.handle.pop_time_ms == handle.pop_time_ms:
                assert before.attempt == self._attempt, f"{message.text()} is with two"
                assert before.reconsume_times == message.reconsume_times
                repeated.add(message.text())
        for body, known in self.model.out.items():
            assert isinstance(known, OrderedDelivery)
            if body not in self.model.perhaps_done and body not in repeated and not known.stale:
                held = known.handle.queue_id in {queue_id for queue_id, _ in places}
                ours = repeated and known.handle.pop_time_ms == self._places.pop_ms[known.handle.queue_id]
                assert not held or ours or now >= known.visible_ms, f"{places} came while {body} was out"
        for message, place in zip(messages, places, strict=True):
            body, handle = message.text(), parse_handle(message.properties["POP_CK"])
            assert handle.order
            assert (handle.mark, message.topic) == ("0", TOPIC)
            assert message.reconsume_times <= RETRY_MAX_TIMES, f"{body} is one for the dead letters"
            assert body in self.model.certain | self.model.possible, f"{body}: nobody sent it"
            assert body not in self.model.done, f"{body} was acknowledged and came again"
            before = self.model.out.get(body)
            if before is not None and body not in repeated:
                assert message.reconsume_times > before.reconsume_times, f"{body} is with two"
            self._places.tries[place] = message.reconsume_times + 1
            self._places.pop_ms[place[0]] = handle.pop_time_ms
            self.model.out[body] = OrderedDelivery(
                handle, handle.visible_ms, message.reconsume_times, self._attempt, self._lost_pops
            )
        bodies = {message.text() for message in messages}
        for body, known in self.model.out.items():
            assert isinstance(known, OrderedDelivery)
            queue_id, pop_ms = known.handle.queue_id, known.handle.pop_time_ms
            if body not in bodies and any(queue_id == q and pop_ms == self._places.pop_ms[q] for q, _ in places):
                known.stale = True
        self._last_bodies = [message.text() for message in messages]
        return len(messages)

    def _is_current(self, known: Delivery) -> bool:
        """Whether its handle holds, for all we know: until somebody else has the message."""
        assert isinstance(known, OrderedDelivery)
        handle = known.handle
        place = handle.queue_id, handle.queue_offset
        if known.stale or handle.pop_time_ms != self._places.pop_ms[handle.queue_id]:
            return False
        if now_ms() < known.visible_ms:
            return True
        return known.lost_pops == self._lost_pops and not self._may_be_dead(place)

    def _acknowledged(self, bodies: Sequence[str], *, answered: bool) -> None:
        for body in bodies:
            known = self.model.out[body]
            self._places.ended.add((known.handle.queue_id, known.handle.queue_offset))
            if answered and self._is_current(known):
                self.model.done.add(body)
                del self.model.out[body]
            else:
                self.model.perhaps_done.add(body)

    # --- steps -------------------------------------------------------------------------------------------------------

    def _chosen(self, nums: int) -> list[str]:
        """Of the last answer first, and not from its beginning alone."""
        bodies = [body for body in self._last_bodies if body in self.model.out]
        return (bodies[1::2] + bodies[::2])[:nums]

    async def change(self, nums: int, invisible_ms: int) -> None:
        for body in self._chosen(nums):
            known = self.model.out[body]
            handle, current = known.handle, self._is_current(known)
            header = ChangeInvisibleTimeRequestHeader(
                consumer_group=GROUP,
                topic=TOPIC,
                queue_id=handle.queue_id,
                extra_info=handle.text(),
                offset=handle.queue_offset,
                invisible_time=invisible_ms,
            )
            answer = await self._client.ask(request(RequestCode.CHANGE_MESSAGE_INVISIBLETIME, header))
            if answer.code != ResponseCode.SUCCESS:
                assert answer.code == ResponseCode.NO_MESSAGE, answer.remark
                assert not current or body in self.model.perhaps_done, f"{body}: its handle was good"
                continue
            times = answer.header(ChangeInvisibleTimeResponseHeader)
            assert times.pop_time == handle.pop_time_ms
            known.handle = PopHandle(
                handle.start_offset,
                times.pop_time,
                times.invisible_time,
                times.revive_qid,
                handle.mark,
                handle.broker_name,
                handle.queue_id,
                handle.queue_offset,
            )
            known.visible_ms = known.handle.visible_ms

    async def expire(self, *_: object) -> None:
        """Lets the short times end."""
        start = now_ms()
        await eventually(lambda: now_ms() > start + SHORT_MS, "the short times are over", DEADLINE_S)

    # --- the end -----------------------------------------------------------------------------------------------------

    async def _drained(self, client: redis.Redis) -> bool:
        out = client.hlen(f"{self._key_prefix}:{{broker-a}}:ordered")
        self._attempt, self._nums, taken = next(self._attempts), 4, 0
        while nums := self._delivered(await self._client.ask(self._pop(-1, LONG_MS))):
            taken += nums
            await self.ack(nums, True)
            self._attempt = next(self._attempts)
        return not out and not taken

    async def check(self) -> None:
        self._last_bodies = sorted(self.model.out)
        await self.change(len(self.model.out), 0)  # gives all back at once
        base = f"{self._key_prefix}:{{broker-a}}:"
        with redis.Redis.from_url(self._store) as client:
            await eventually(lambda: self._drained(client), "all is acknowledged", DEADLINE_S)
            for key in client.scan_iter(f"{base}queue:*"):
                assert b"%RETRY%" not in key
                assert all(group["pending"] == 0 for group in client.xinfo_groups(key)), f"{key!r} has pending entries"
            stored = [await self._client.pull_all(TOPIC, queue_id=q) for q in range(QUEUES)]
            for queue_id, texts in enumerate(stored):
                offset = int(client.hget(f"{base}offsets:{GROUP}:{TOPIC}", str(queue_id)) or 0)
                assert offset == len(texts), f"queue {queue_id} is consumed to {offset} of {len(texts)}"
        dead = Counter(await self._client.pull_all(DEAD, group="reader")) if await self._has_dead() else Counter()
        model = self.model
        note(f"sent {len(model.certain)} + {len(model.possible)}?, done {len(model.done)}, dead {len(dead)}")
        all_stored = Counter(text for texts in stored for text in texts)
        assert max((dead | all_stored).values()) == 1, "a message is stored twice"
        assert model.certain <= all_stored.keys() <= model.certain | model.possible
        assert not model.done & dead.keys(), "an acknowledged message is a dead letter"
        assert not dead.keys() - {
            text for q, texts in enumerate(stored) for n, text in enumerate(texts) if self._may_be_dead((q, n))
        }, "a dead letter that had not all its tries"
        lost = model.certain - model.done - model.perhaps_done - dead.keys()
        assert not lost, f"never delivered until acknowledged: {sorted(lost)}"


SEND, PART_AGAIN = ("send", 0, 5), [("pop", 0, 6), ("expire", 0, 0), ("pop", 0, 1), ("kill", 0, 2), ("ack", 1, False)]
TRIED_OUT = [("pop", 0, 4), ("expire", 0, 0)] * (RETRY_MAX_TIMES + 2)


@example(steps=[SEND, *PART_AGAIN, *PART_AGAIN, ("pop", 0, 7), ("ack", 4, True), ("repeat", 0, 7)])
@example(
    steps=[
        SEND,
        *TRIED_OUT[:2],
        ("ack", 1, True),
        *TRIED_OUT,
        ("restart", 0, 0),
        ("pop", 0, 7),
        ("repeat", 0, 1),
        ("ack", 4, True),
    ]
)
@settings(
    max_examples=MODEL_EXAMPLES, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
)
@given(steps=STEPS)
def test_queue_is_consumed_in_order_under_faults(
    servers: tuple[str, str, Path],
    steps: list[tuple[str, int, int]],
) -> None:
    async def main() -> None:
        run = OrderRun(*servers)
        try:
            await run.begin()
            for step in (*steps, ("pop", -1, 1), ("kill", 0, 4), ("repeat", -1, 7)):
                await run.step(*step)
            await run.check()
        finally:
            await run.close()

    asyncio.run(main())
