"""Random sequences of prepare, decide, ask, give up and restart, against a model of what consumers may see.

Every half message has one end: visible once, forgotten, or given up. Which one, the answers of the broker say; where an
answer is missing, because another master took over in between, the decision is repeated, as a producer does when asked.
"""

from __future__ import annotations

import asyncio
import uuid
from collections import Counter
from itertools import count

import pytest
from helpers import BrokerClient, FakeNameServer, eventually, heartbeat_request, send_request
from hypothesis import given, note, settings
from hypothesis import strategies as st

from rmq_redis.broker.broker import Broker
from rmq_redis.broker.produce import transaction as transaction_module
from rmq_redis.codes import RequestCode
from rmq_redis.config import BrokerConfig
from rmq_redis.errors import RmqError
from rmq_redis.protocol.command import RemotingCommand, request
from rmq_redis.protocol.headers.send import SendMessageResponseHeader
from rmq_redis.protocol.headers.transaction import CheckTransactionStateRequestHeader, EndTransactionRequestHeader
from rmq_redis.protocol.ids import parse_offset_msg_id
from rmq_redis.remoting.connection import Connection
from rmq_redis.store.embedded import EmbeddedServer

COMMIT, ROLLBACK, UNKNOWN = 8, 12, 0
NEVER, AT_ONCE = "3600", "0"
QUEUES = 2
CHECK_MAX = 3

WHICH = st.integers(0, 1000)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("prepare"), st.integers(1, 5), st.sampled_from([NEVER, AT_ONCE])),
        st.tuples(st.just("decide"), WHICH, st.sampled_from([COMMIT, ROLLBACK, UNKNOWN])),
        st.tuples(st.just("contradict"), WHICH, st.booleans()),
        st.tuples(st.just("answer"), st.sampled_from([COMMIT, ROLLBACK, UNKNOWN]), st.just(0)),
        st.tuples(st.just("look"), st.just(0), st.just(0)),
        st.tuples(st.just("restart"), st.just(0), st.just(0)),
        st.tuples(st.just("take_over"), st.integers(0, 30), st.sampled_from([COMMIT, ROLLBACK])),
    ),
    min_size=3,
    max_size=25,
)


class Half:
    """A half message: ``end`` is COMMIT or ROLLBACK once an answer has said so."""

    def __init__(self, body: str, sent: SendMessageResponseHeader, immunity: str) -> None:
        self.body = body
        self.sent = sent
        self.immunity = immunity
        self.end: int | None = None

    def decision(self, decision: int) -> RemotingCommand:
        header = EndTransactionRequestHeader(
            producer_group="PG",
            tran_state_table_offset=self.sent.queue_offset,
            commit_log_offset=parse_offset_msg_id(self.sent.msg_id)[1],
            commit_or_rollback=decision,
            msg_id=self.body,
        )
        return request(RequestCode.END_TRANSACTION, header)


class Producer(BrokerClient):
    """Notes what it is asked about."""

    def __init__(self, address: str) -> None:
        super().__init__(address)
        self.asked: set[int] = set()
        self._client._dispatcher.processors = {RequestCode.CHECK_TRANSACTION_STATE: self._check}

    def _check(self, connection: Connection, command: RemotingCommand) -> None:
        self.asked.add(command.header(CheckTransactionStateRequestHeader).tran_state_table_offset)


class Run:
    """One broker group, its model, and the steps."""

    def __init__(self, store: str, namesrv_addr: str) -> None:
        self._config = BrokerConfig(
            listen_host="127.0.0.1",
            listen_port=0,
            store=store,
            key_prefix=f"m{uuid.uuid4().hex[:12]}",
            namesrv_addr=namesrv_addr,
            default_topic_queue_nums=QUEUES,
            transaction_check_interval_s=0.02,
            transaction_check_max_interval_s=0.05,
            transaction_check_max=CHECK_MAX,
            stop_timeout_s=1.0,
        )
        self._bodies = (f"m{number}" for number in count())
        self._halves: list[Half] = []
        self._broker: Broker
        self._client: Producer

    async def start(self) -> None:
        self._broker = Broker(self._config)
        await self._broker.start()
        self._client = Producer(self._broker.address)
        await self._client.ok(heartbeat_request("p1", producer_group="PG"))

    async def close(self) -> None:
        await self._client.close()
        await self._broker.close()

    def _pick(self, which: int) -> Half | None:
        return self._halves[which % len(self._halves)] if self._halves else None

    async def _decide(self, half: Half, decision: int) -> None:
        """Sends a decision; its answer must fit what is known."""
        answer = await self._client.ask(half.decision(decision))
        if decision == UNKNOWN:
            assert answer.code == 0
        elif answer.code == 0:
            assert half.end is None, f"{half.body} was decided twice"
            half.end = decision
        else:
            assert answer.code == 1
            # Decided before; or given up, which only happens to what is asked about.
            assert half.end is not None or half.immunity == AT_ONCE, f"{half.body} is lost: {answer.remark}"

    # --- steps -------------------------------------------------------------------------------------------------------

    async def prepare(self, nums: int, immunity: str) -> None:
        bodies = [next(self._bodies) for _ in range(nums)]

        async def send(body: str) -> Half:
            properties = f"TRAN_MSG\x01true\x02PGROUP\x01PG\x02UNIQ_KEY\x01{body}\x02"
            properties += f"CHECK_IMMUNITY_TIME_IN_SECONDS\x01{immunity}\x02"
            command = send_request("T", body.encode(), queue_id=len(body) % QUEUES, properties=properties, sys_flag=4)
            return Half(body, (await self._client.ok(command)).header(SendMessageResponseHeader), immunity)

        self._halves += await asyncio.gather(*map(send, bodies))
        numbers = [half.sent.queue_offset for half in self._halves]
        assert len(set(numbers)) == len(numbers), "two half messages have one number"

    async def decide(self, which: int, decision: int) -> None:
        half = self._pick(which)
        if half is not None:
            await self._decide(half, decision)

    async def contradict(self, which: int, commit_first: bool) -> None:
        """Both decisions at once: one of them at most is taken."""
        half = self._pick(which)
        if half is not None:
            decisions = (COMMIT, ROLLBACK) if commit_first else (ROLLBACK, COMMIT)
            await asyncio.gather(*(self._decide(half, decision) for decision in decisions))

    async def answer(self, decision: int, _: object) -> None:
        """Answers what it was asked meanwhile."""
        asked, self._client.asked = self._client.asked, set()
        for half in self._halves:
            if half.sent.queue_offset in asked:
                assert half.immunity == AT_ONCE, "asked too early"
                await self._decide(half, decision)

    async def restart(self, _: object, __: object) -> None:
        await self.close()
        await self.start()

    async def take_over(self, turns: int, decision: int) -> None:
        """Another master takes the group over while decisions about everything are on their way to the first."""
        undecided = [half for half in self._halves if half.end is None]
        old_client, old_broker = self._client, self._broker
        tasks = [asyncio.ensure_future(old_client.ask(half.decision(decision))) for half in undecided]
        for _ in range(turns):
            await asyncio.sleep(0)
        await old_broker.parts.leadership.stop()
        await old_broker.parts.leadership.release()  # without that, the next one waits until the lease expires
        await self.start()
        await old_client.close()
        await old_broker.close()
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        for half, outcome in zip(undecided, outcomes, strict=True):
            if isinstance(outcome, RemotingCommand) and outcome.code == 0:
                half.end = decision
            else:
                assert isinstance(outcome, RemotingCommand | RmqError)
        visible = await self._visible()
        for half in undecided:
            if half.end is None:  # taken without an answer, or not taken
                answer = await self._client.ask(half.decision(decision))
                if answer.code == 0:
                    half.end = decision
                    assert half.body not in visible
                elif decision == COMMIT and half.body in visible:
                    half.end = COMMIT
                elif decision == ROLLBACK and half.immunity == NEVER:
                    half.end = ROLLBACK
                else:
                    assert half.immunity == AT_ONCE, f"{half.body} is lost: {answer.remark}"

    async def look(self, _: object, __: object) -> None:
        committed = Counter(half.body for half in self._halves if half.end == COMMIT)
        assert Counter(await self._visible()) == committed

    async def _visible(self) -> list[str]:
        bodies: list[str] = []
        if self._halves:
            for queue_id in range(QUEUES):
                bodies += await self._client.pull_all("T", queue_id=queue_id)
        return bodies

    async def finish(self) -> None:
        """What nobody decided is given up, if it is asked about; the rest is still there, and can be decided."""
        await self.look(0, 0)
        given_up = [half.body for half in self._halves if half.immunity == AT_ONCE and half.end is None]

        async def all_given_up() -> bool:
            if not given_up:
                return True
            pulled = await self._client.pull("TRANS_CHECK_MAX_TIME_TOPIC", 0, max_msg_nums=1000)
            return len(pulled.bodies) >= len(given_up)

        await eventually(all_given_up)
        if given_up:
            assert Counter(await self._client.pull_all("TRANS_CHECK_MAX_TIME_TOPIC")) == Counter(given_up)
        for number, half in enumerate(self._halves):
            if half.end is None and half.immunity == NEVER:
                await self._decide(half, COMMIT if number % 2 else ROLLBACK)
                assert half.end is not None
        await self.look(0, 0)


async def run_steps(store: str, steps: list[tuple[str, object, object]]) -> None:
    namesrv = FakeNameServer()
    await namesrv.start()
    run = Run(store, namesrv.address)
    await run.start()
    try:
        for kind, first, second in steps:
            note(f"{kind} {first} {second}")
            await getattr(run, kind)(first, second)
        await run.finish()
    finally:
        await run.close()
        await namesrv.close()


@pytest.fixture(scope="module")
def looks_often() -> object:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(transaction_module, "_LOOK_PERIOD_S", 0.01)
        yield


@pytest.mark.usefixtures("looks_often")
@given(steps=STEPS)
@settings(max_examples=30)
def test_every_half_message_is_committed_or_removed_once(
    embedded_server: EmbeddedServer, steps: list[tuple[str, object, object]]
) -> None:
    asyncio.run(run_steps(embedded_server.url, steps))
