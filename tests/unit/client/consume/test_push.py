"""AsyncPushConsumer against fake brokers."""

from __future__ import annotations

import asyncio
import json
import logging
import threading
from collections import Counter
from typing import Any

import msgspec
import pytest
from client_fakes import FakeCluster, backs, cluster, sends, until

from rmq_redis.client.consume import concurrent as consume
from rmq_redis.client.consume import pulling, rebalance
from rmq_redis.client.consume.push import AsyncPushConsumer
from rmq_redis.codes import PullSysFlag, RequestCode, ResponseCode
from rmq_redis.errors import ClientError, ConfigError
from rmq_redis.model import ConsumeResult, MessageExt
from rmq_redis.protocol.bodies.base import dumps
from rmq_redis.protocol.command import request, response
from rmq_redis.protocol.headers.pull import PullMessageRequestHeader, PullMessageResponseHeader
from rmq_redis.protocol.properties import decode_properties

FIRST = "CONSUME_FROM_FIRST_OFFSET"
LAST = "CONSUME_FROM_LAST_OFFSET"


class Collector:
    def __init__(self) -> None:
        self.messages: list[MessageExt] = []

    async def __call__(self, message: MessageExt) -> None:
        self.messages.append(message)

    @property
    def bodies(self) -> list[str]:
        return [message.text() for message in self.messages]


def consumer_of(fake: FakeCluster, handler: Any, expression: str = "*", **options: Any) -> AsyncPushConsumer:
    settings = {name: options.pop(name) for name in list(options) if name.endswith("_interval_s")}
    options.setdefault("consume_from_where", FIRST)
    consumer = AsyncPushConsumer("G", config=fake.config(**settings), **options)
    consumer.subscribe("T", expression, handler)
    return consumer


def pulls(fake: FakeCluster, topic: str = "T") -> list[PullMessageRequestHeader]:
    headers = [command.header(PullMessageRequestHeader) for command in fake.broker.of(RequestCode.PULL_MESSAGE)]
    return [header for header in headers if header.topic == topic]


def bodies(count: int, start: int = 0) -> list[bytes]:
    return [b"%d" % number for number in range(start, start + count)]


async def test_messages_are_handled_and_offsets_committed() -> None:
    async with cluster() as fake:
        fake.broker.put("T", 0, *bodies(50), properties="TAGS\x01A\x02KEYS\x01k\x02", flag=3)
        fake.broker.put("T", 1, *bodies(50, 50))
        collector = Collector()
        async with consumer_of(fake, collector) as consumer:
            await until(lambda: len(collector.messages) == 100)
            assert Counter(collector.bodies) == Counter(str(number) for number in range(100))
            first = next(message for message in collector.messages if message.body == b"0")
            assert (first.tags, first.keys, first.flag, first.queue) == ("A", "k", 3, fake.queue(0))
            assert [queue.topic for queue in consumer.assignment] == ["%RETRY%G", "T", "T"]
        assert fake.broker.offsets["G", "T", 0] == fake.broker.offsets["G", "T", 1] == 50
        (left,) = fake.broker.of(RequestCode.UNREGISTER_CLIENT)
        assert left.ext_fields["consumerGroup"] == "G"


async def test_heartbeat_and_pull_carry_the_subscription() -> None:
    async with cluster() as fake:
        async with consumer_of(fake, Collector(), " TagA|| TagB "):
            await until(lambda: pulls(fake))
        (group,) = fake.broker.heartbeats[0]["consumerDataSet"]
        assert (group["groupName"], group["consumeType"], group["messageModel"]) == (
            "G",
            "CONSUME_PASSIVELY",
            "CLUSTERING",
        )
        by_topic = {item["topic"]: item for item in group["subscriptionDataSet"]}
        assert by_topic["T"]["tagsSet"] == ["TagA", "TagB"]
        assert by_topic["T"]["codeSet"] == [2598919, 2598920]
        assert by_topic["%RETRY%G"]["subString"] == "*"
        pull = pulls(fake)[0]
        assert (pull.subscription, pull.expression_type, pull.max_msg_nums) == ("TagA|| TagB", "TAG", 32)
        assert pull.sys_flag == PullSysFlag.SUSPEND | PullSysFlag.SUBSCRIPTION
        assert pull.sub_version == by_topic["T"]["subVersion"]


async def test_tags_are_compared_as_text() -> None:
    async with cluster() as fake:
        for tag in ("Aa", "BB", "", "AaX"):  # "Aa" and "BB" have one hash in Java
            fake.broker.put("T", 0, tag.encode() or b"none", properties=f"TAGS\x01{tag}\x02")
        collector = Collector()
        async with consumer_of(fake, collector, "Aa"):
            await until(lambda: any(pull.queue_offset == 4 for pull in pulls(fake)))
        assert collector.bodies == ["Aa"]
        assert fake.broker.offsets["G", "T", 0] == 4  # what was filtered out counts as consumed


@pytest.mark.parametrize(
    ("where", "expected"), [(FIRST, ["0", "1", "2", "new"]), (LAST, ["new"]), ("CONSUME_FROM_TIMESTAMP", None)]
)
async def test_new_group_starts_where_configured(where: str, expected: list[str] | None) -> None:
    async with cluster() as fake:
        fake.broker.put("T", 0, *bodies(3))
        collector = Collector()
        async with consumer_of(fake, collector, consume_from_where=where, consume_timestamp_ms=0):
            fake.broker.put("T", 0, b"new")
            await until(lambda: "new" in collector.bodies)
        assert collector.bodies == (expected or ["0", "1", "2", "new"])


async def test_known_group_resumes_at_its_offset() -> None:
    async with cluster() as fake:
        fake.broker.put("T", 0, *bodies(5))
        fake.broker.offsets["G", "T", 0] = 3
        collector = Collector()
        async with consumer_of(fake, collector, consume_from_where=LAST):
            await until(lambda: len(collector.messages) == 2)
        assert collector.bodies == ["3", "4"]


async def test_queue_starts_only_when_its_offset_is_known() -> None:
    async with cluster() as fake:
        fake.broker.put("T", 0, b"x")
        fake.broker.answers[RequestCode.QUERY_CONSUMER_OFFSET] = [1, 1, 1]
        collector = Collector()
        async with consumer_of(fake, collector) as consumer:
            assert len(consumer.assignment) == 0
            await until(lambda: len(collector.messages) == 1)


# --- failures of handlers ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "outcome", [False, ConsumeResult.LATER, ValueError("no"), "nonsense", asyncio.CancelledError()]
)
@pytest.mark.parametrize("is_async", [True, False])
async def test_failed_message_is_sent_back(outcome: Any, is_async: bool) -> None:
    async with cluster() as fake:
        fake.broker.put("T", 1, b"bad", properties="UNIQ_KEY\x01ID\x02")

        def plain(message: MessageExt) -> Any:
            if isinstance(outcome, BaseException):
                raise outcome
            return outcome

        async def coroutine(message: MessageExt) -> Any:
            return plain(message)

        if isinstance(outcome, asyncio.CancelledError) and not is_async:
            return
        async with consumer_of(fake, coroutine if is_async else plain):
            (back,) = await until(lambda: backs(fake.broker))
        assert (back.group, back.offset, back.delay_level, back.max_reconsume_times) == ("G", 1 << 40, 0, None)
        assert (back.origin_msg_id, back.origin_topic) == ("ID", "T")
        assert fake.broker.offsets["G", "T", 1] == 1


@pytest.mark.parametrize("outcome", [None, True, ConsumeResult.SUCCESS])
@pytest.mark.parametrize("is_async", [True, False])
async def test_every_form_of_success_is_accepted(outcome: Any, is_async: bool) -> None:
    async with cluster() as fake:
        fake.broker.put("T", 0, *bodies(3))

        async def coroutine(message: MessageExt) -> Any:
            return outcome

        async with consumer_of(fake, coroutine if is_async else lambda message: outcome) as consumer:
            await until(lambda: all(not pq.pending and pq.next_offset == 3 for pq in consumer.process_queues[1:2]))
        assert not backs(fake.broker)
        assert fake.broker.offsets["G", "T", 0] == 3


async def test_failed_send_back_sends_to_the_retry_topic() -> None:
    async with cluster() as fake:
        fake.broker.put("T", 0, b"bad", properties="UNIQ_KEY\x01ID\x02TAGS\x01A\x02", reconsume_times=2, flag=4)
        fake.broker.answers[RequestCode.CONSUMER_SEND_MSG_BACK] = [1]

        async def handle(message: MessageExt) -> bool:
            return message.reconsume_times > 2

        async with consumer_of(fake, handle):
            (header,) = await until(lambda: sends(fake.broker))
        assert (header.topic, header.reconsume_times, header.flag) == ("%RETRY%G", 3, 4)
        assert header.max_reconsume_times is None  # the group's configuration says
        properties = decode_properties(header.properties or "")
        assert properties == {
            "UNIQ_KEY": "ID",
            "TAGS": "A",
            "RETRY_TOPIC": "T",
            "ORIGIN_MESSAGE_ID": "ID",
            "RETRY_OFFSET": "0",
            "DELAY": "5",
        }
        assert fake.broker.offsets["G", "T", 0] == 1


async def test_message_that_no_broker_takes_back_is_retried_locally(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(consume, "LOCAL_RETRY_S", 0.01)
    async with cluster() as fake:
        fake.broker.put("T", 0, b"bad", b"good")
        fake.broker.unsupported |= {RequestCode.CONSUMER_SEND_MSG_BACK, RequestCode.SEND_MESSAGE_V2}
        attempts: list[str] = []

        async def handle(message: MessageExt) -> bool:
            attempts.append(message.text())
            return message.body == b"good" or message.reconsume_times == 2

        async with consumer_of(fake, handle) as consumer:
            await until(lambda: attempts.count("bad") == 3)
            assert consumer.assignment
        assert attempts.count("good") == 1
        assert fake.broker.offsets["G", "T", 0] == 2


@pytest.mark.parametrize("is_async", [True, False])
@pytest.mark.parametrize("succeeds", [True, False])
async def test_handler_that_times_out_does_not_hold_back_the_offset(is_async: bool, succeeds: bool) -> None:
    """Given back once, whatever the handler says in the end; messages that wait for a worker are not its like."""
    async with cluster() as fake:
        fake.broker.put("T", 0, b"stuck", b"next")
        go_on = threading.Event()
        seen: list[str] = []

        def plain(message: MessageExt) -> bool:
            if message.body == b"stuck":
                go_on.wait(30)
            seen.append(message.text())
            return succeeds or message.body != b"stuck"

        async def coroutine(message: MessageExt) -> bool:
            while message.body == b"stuck" and not go_on.is_set():
                await asyncio.sleep(0.005)
            return plain(message)

        handler = coroutine if is_async else plain
        async with consumer_of(fake, handler, consume_timeout_s=0.5, concurrency=1) as consumer:
            (back,) = await until(lambda: backs(fake.broker))
            assert back.offset == 0
            (process_queue,) = [pq for pq in consumer.process_queues if pq.queue == fake.queue(0)]
            await until(lambda: process_queue.commit_offset() == 1)
            await asyncio.sleep(0.8)  # many looks: the next one waits for the only worker, and is not given back
            assert len(backs(fake.broker)) == 1
            go_on.set()
            await until(lambda: seen == ["stuck", "next"])
        assert [header.offset for header in backs(fake.broker)].count(0) == 1
        assert fake.broker.offsets["G", "T", 0] == 2


async def test_retried_message_has_its_original_topic() -> None:
    async with cluster() as fake:
        fake.broker.put("%RETRY%G", 0, b"again", properties="RETRY_TOPIC\x01T\x02", reconsume_times=1)
        collector = Collector()
        async with consumer_of(fake, collector):
            await until(lambda: collector.messages)
        (message,) = collector.messages
        assert (message.topic, message.reconsume_times) == ("T", 1)
        assert fake.broker.offsets["G", "%RETRY%G", 0] == 1


async def test_broadcasting_consumers_all_get_each_message_once() -> None:
    async with cluster() as fake:
        fake.broker.put("T", 0, *bodies(5))
        seen: list[list[str]] = [[], []]

        def handler(index: int) -> Any:
            async def handle(message: MessageExt) -> bool:
                seen[index].append(message.text())
                return False

            return handle

        consumers = [consumer_of(fake, handler(index), message_model="BROADCASTING") for index in range(2)]
        async with consumers[0], consumers[1]:
            await until(lambda: len(seen[0]) == len(seen[1]) == 5)
            assert all(queue.topic == "T" for queue in consumers[0].assignment)
        assert not backs(fake.broker)
        assert not fake.broker.offsets


# --- handlers in threads, concurrency ----------------------------------------------------------------------------


async def test_plain_functions_run_in_parallel_threads() -> None:
    async with cluster() as fake:
        fake.broker.put("T", 0, *bodies(8))
        together = threading.Barrier(4, timeout=10)
        names: set[str] = set()

        def handle(message: MessageExt) -> None:
            names.add(threading.current_thread().name)
            together.wait()

        async with consumer_of(fake, handle, concurrency=4):
            await until(lambda: fake.broker.offsets.get(("G", "T", 0)) == 8 or len(names) == 4)
        assert len(names) == 4
        assert threading.main_thread().name not in names


async def test_coroutines_run_concurrently_up_to_the_limit() -> None:
    async with cluster() as fake:
        fake.broker.put("T", 0, *bodies(50))
        running = peak = done = 0

        async def handle(message: MessageExt) -> None:
            nonlocal running, peak, done
            running += 1
            peak = max(peak, running)
            await asyncio.sleep(0.005)
            running -= 1
            done += 1

        async with consumer_of(fake, handle, concurrency=7):
            await until(lambda: done == 50)
        assert peak == 7


async def test_pulling_stops_while_too_many_messages_are_unfinished() -> None:
    async with cluster() as fake:
        fake.broker.put("T", 0, *bodies(200))
        gate = asyncio.Event()
        handled = 0

        async def handle(message: MessageExt) -> None:
            nonlocal handled
            await gate.wait()
            handled += 1

        async with consumer_of(
            fake, handle, pull_batch_size=10, pull_threshold_for_queue=30, persist_consumer_offset_interval_s=0.01
        ) as consumer:
            await until(lambda: sum(len(pq.pending) for pq in consumer.process_queues) == 30)
            for _ in range(20):
                await asyncio.sleep(0)
            assert max(pull.queue_offset for pull in pulls(fake) if pull.queue_id == 0) == 20
            gate.set()
            await until(lambda: handled == 200)
            await until(lambda: fake.broker.offsets.get(("G", "T", 0)) == 200)


async def test_unfinished_message_holds_back_the_offset() -> None:
    async with cluster() as fake:
        fake.broker.put("T", 0, *bodies(20))
        gate = asyncio.Event()
        handled = 0

        async def handle(message: MessageExt) -> None:
            nonlocal handled
            if message.body == b"7":
                await gate.wait()
            handled += 1

        async with consumer_of(fake, handle, persist_consumer_offset_interval_s=0.01):
            await until(lambda: handled == 19)
            await until(lambda: fake.broker.offsets.get(("G", "T", 0)) == 7)
            gate.set()
            await until(lambda: fake.broker.offsets.get(("G", "T", 0)) == 20)


async def test_pulls_carry_the_offset_to_commit() -> None:
    async with cluster() as fake:
        fake.broker.put("T", 0, *bodies(64))
        fake.broker.hold_s = 0.1
        collector = Collector()
        async with consumer_of(fake, collector):
            await until(lambda: len(collector.messages) == 64)
            fake.broker.put("T", 0, b"wakes the pull")
            await until(lambda: fake.broker.offsets.get(("G", "T", 0)) == 65)
        assert any(pull.sys_flag & PullSysFlag.COMMIT_OFFSET for pull in pulls(fake))


# --- orderly -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("is_async", [True, False])
async def test_orderly_consumer_keeps_the_order_and_retries_in_place(is_async: bool) -> None:
    async with cluster() as fake:
        fake.broker.put("T", 0, *bodies(100))
        fake.broker.put("T", 1, *bodies(100, 100))
        seen: dict[int, list[int]] = {0: [], 1: []}
        busy: Counter[int] = Counter()
        failed: set[bytes] = set()

        def plain(message: MessageExt) -> bool:
            if int(message.body) % 10 == 5 and message.body not in failed:
                failed.add(message.body)
                return False
            seen[message.queue_id].append(int(message.body))
            return True

        async def coroutine(message: MessageExt) -> bool:
            busy[message.queue_id] += 1
            assert busy[message.queue_id] == 1
            await asyncio.sleep(0)
            busy[message.queue_id] -= 1
            return plain(message)

        handler = coroutine if is_async else plain
        async with consumer_of(fake, handler, orderly=True, suspend_current_queue_time_s=0.01):
            await until(lambda: len(seen[0]) == len(seen[1]) == 100)
        assert seen == {0: list(range(100)), 1: list(range(100, 200))}
        assert len(failed) == 20
        assert fake.broker.offsets["G", "T", 0] == fake.broker.offsets["G", "T", 1] == 100
        assert not backs(fake.broker)
        assert not fake.broker.locks  # given back


async def test_orderly_message_becomes_a_dead_letter_after_the_limit() -> None:
    async with cluster() as fake:
        fake.broker.put("T", 0, b"bad", b"good")
        fake.broker.answers[RequestCode.SEND_MESSAGE_V2] = [1]  # the first time it cannot be given up
        seen: list[tuple[str, int]] = []

        async def handle(message: MessageExt) -> bool:
            seen.append((message.text(), message.reconsume_times))
            return message.body == b"good" or message.reconsume_times == 3  # where this fake broker puts it

        async with consumer_of(fake, handle, orderly=True, suspend_current_queue_time_s=0.001, max_reconsume_times=2):
            await until(lambda: len(seen) == 5)
        assert seen[:3] == [("bad", 0), ("bad", 1), ("bad", 2)]  # not once more while it cannot be given up
        assert sorted(seen[3:]) == [("bad", 3), ("good", 0)]
        assert not backs(fake.broker)
        last = sends(fake.broker)[-1]
        assert (last.topic, last.reconsume_times, last.max_reconsume_times) == ("%RETRY%G", 3, 2)


async def test_retry_limit_of_the_consumer_is_sent_to_the_broker() -> None:
    async with cluster() as fake:
        fake.broker.put("T", 0, b"bad")
        async with consumer_of(fake, lambda message: False, max_reconsume_times=3):
            (back,) = await until(lambda: backs(fake.broker))
        assert back.max_reconsume_times == 3


async def test_orderly_consumer_pulls_only_locked_queues() -> None:
    async with cluster() as fake:
        fake.broker.put("T", 0, b"x")
        fake.broker.put("T", 1, b"y")
        fake.broker.locks["G", "T", 0] = "somebody else"
        collector = Collector()
        async with consumer_of(fake, collector, orderly=True) as consumer:
            await until(lambda: collector.bodies == ["y"])
            assert fake.queue(0) not in consumer.assignment
            del fake.broker.locks["G", "T", 0]
            await until(lambda: collector.bodies == ["y", "x"])


async def test_orderly_consumer_works_without_lock_support(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, "rmq_redis")
    async with cluster() as fake:
        fake.broker.put("T", 0, b"x")
        fake.broker.unsupported |= {RequestCode.LOCK_BATCH_MQ, RequestCode.UNLOCK_BATCH_MQ}
        collector = Collector()
        async with consumer_of(fake, collector, orderly=True):
            await until(lambda: collector.messages)
        assert [record.message for record in caplog.records if "locks" in record.message] == [
            "broker broker-a knows no queue locks: group G goes on without"
        ]


async def test_locks_are_renewed_and_a_lost_lock_releases_the_queue(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rmq_redis.client.consume.held_queues.LOCK_RENEW_INTERVAL_S", 0.02)
    async with cluster() as fake:
        async with consumer_of(fake, Collector(), orderly=True) as consumer:
            await until(lambda: len(fake.broker.of(RequestCode.LOCK_BATCH_MQ)) > 3)
            fake.broker.locks["G", "T", 1] = "somebody else"
            await until(lambda: fake.queue(1) not in consumer.assignment)
            assert fake.queue(0) in consumer.assignment
        assert fake.broker.locks == {("G", "T", 1): "somebody else"}


async def test_lock_expires_if_it_cannot_be_renewed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rmq_redis.client.consume.held_queues.LOCK_LIVE_S", 0.0)
    async with cluster() as fake:
        fake.broker.put("T", 0, b"x")
        collector = Collector()
        async with consumer_of(fake, collector, orderly=True) as consumer:
            assert fake.queue(0) in consumer.assignment
            await asyncio.sleep(0.05)
            assert not collector.messages
            assert not pulls(fake)


# --- rebalance ---------------------------------------------------------------------------------------------------


async def test_consumers_share_queues_and_take_over() -> None:
    async with cluster("broker-a", "broker-b") as fake:
        collectors = [Collector(), Collector()]
        consumers = [consumer_of(fake, collector) for collector in collectors]

        def shares() -> list[int]:
            return [sum(queue.topic == "T" for queue in consumer.assignment) for consumer in consumers]

        async with consumers[0]:
            assert shares() == [4, 0]
            async with consumers[1]:
                await until(lambda: shares() == [2, 2])
                assert not set(consumers[0].assignment) & set(consumers[1].assignment)
                for broker in fake.brokers:
                    for queue_id in range(2):
                        broker.put("T", queue_id, *bodies(10))
                await until(lambda: sum(len(collector.messages) for collector in collectors) == 40)
                assert {len(collector.messages) for collector in collectors} == {20}
            await until(lambda: shares() == [4, 0])
            for broker in fake.brokers:
                for queue_id in range(2):
                    broker.put("T", queue_id, b"late")
            await until(lambda: collectors[0].bodies.count("late") == 4)
        assert len(collectors[1].messages) == 20


async def test_released_queue_is_committed() -> None:
    async with cluster() as fake:
        fake.broker.put("T", 1, *bodies(10))
        first, second = Collector(), Collector()
        consumers = consumer_of(fake, first), consumer_of(fake, second)
        async with consumers[0]:
            await until(lambda: len(first.messages) == 10)
            assert ("G", "T", 1) not in fake.broker.offsets
            async with consumers[1]:
                await until(lambda: sorted(len(consumer.assignment) for consumer in consumers) == [1, 2])
                await until(lambda: fake.broker.offsets.get(("G", "T", 1)) == 10)
                assert not fake.broker.of(RequestCode.UPDATE_CONSUMER_OFFSET)[0].is_oneway


async def test_topic_created_later_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    async with cluster() as fake:
        del fake.name_server.topics["T"]
        collector = Collector()
        async with consumer_of(fake, collector) as consumer:
            assert [queue.topic for queue in consumer.assignment] in ([], ["%RETRY%G"])
            fake.broker.put("T", 0, b"x")
            fake.name_server.topics["T"] = {"broker-a": 1}
            await until(lambda: collector.messages)


async def test_added_queues_are_found_by_the_route_refresh() -> None:
    async with cluster() as fake:
        collector = Collector()
        async with consumer_of(fake, collector, poll_name_server_interval_s=0.01) as consumer:
            fake.name_server.topics["T"]["broker-a"] = 3
            await until(lambda: fake.queue(2) in consumer.assignment)


async def test_empty_member_list_keeps_the_assignment() -> None:
    async with cluster() as fake, consumer_of(fake, Collector()) as consumer:
        assert len(consumer.assignment) == 3
        fake.broker.answers[RequestCode.GET_CONSUMER_LIST_BY_GROUP] = [1] * 20
        consumer.rebalance_now()
        await until(lambda: len(fake.broker.answers[RequestCode.GET_CONSUMER_LIST_BY_GROUP]) < 15)
        assert len(consumer.assignment) == 3


async def test_malformed_response_does_not_stop_rebalancing() -> None:
    async with cluster() as fake:
        nonsense = [lambda _connection, command: response(command, body=b'{"consumerIdList":5}')]
        fake.broker.answers[RequestCode.GET_CONSUMER_LIST_BY_GROUP] = nonsense * 2
        async with consumer_of(fake, Collector(), rebalance_interval_s=0.05) as consumer:
            await until(lambda: len(consumer.assignment) == 3)


@pytest.mark.parametrize("broken", ["assigned", "_apply"])
async def test_bug_does_not_stop_rebalancing(broken: str) -> None:
    """It is the only task that finds queues."""
    async with cluster() as fake, consumer_of(fake, Collector(), rebalance_interval_s=0.05) as consumer:
        right = getattr(consumer._rebalancer, broken)
        failed: list[int] = []

        async def wrong(*_: Any) -> Any:
            failed.append(1)
            setattr(consumer._rebalancer, broken, right)
            raise ValueError("a mistake")

        setattr(consumer._rebalancer, broken, wrong)
        fake.name_server.topics["U"] = {"broker-a": 1}
        consumer.subscribe("U", "*", Collector())
        await until(lambda: failed)
        await until(lambda: fake.queue(0, topic="U") in consumer.assignment)


def wrong_once(monkeypatch: pytest.MonkeyPatch, target: Any, name: str) -> list[int]:
    """Has one call of a method fail as only a mistake of ours can; filled when it has."""
    right, failed = getattr(target, name), [0]

    def wrong(*args: Any, **options: Any) -> Any:
        failed[0] += 1
        if failed[0] == 1:
            raise ValueError("a mistake")
        return right(*args, **options)

    monkeypatch.setattr(target, name, wrong)
    return failed


async def test_bug_does_not_stop_pulling(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rmq_redis.client.consume.pulling.RETRY_AFTER_ERROR_S", 0.02)
    collector = Collector()
    async with cluster() as fake, consumer_of(fake, collector) as consumer:
        failed = wrong_once(monkeypatch, consumer._instance.broker, "pull")
        fake.broker.put("T", 0, b"a")
        fake.broker.put("T", 1, b"a")
        await until(lambda: failed[0])
        fake.broker.put("T", 0, b"b")
        fake.broker.put("T", 1, b"b")
        await until(lambda: sorted(collector.bodies) == ["a", "a", "b", "b"])


async def test_bug_does_not_stop_commits_heartbeats_or_lock_renewal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rmq_redis.client.consume.held_queues.LOCK_RENEW_INTERVAL_S", 0.02)
    options: dict[str, Any] = {"persist_consumer_offset_interval_s": 0.02, "heartbeat_broker_interval_s": 0.02}
    async with cluster() as fake, consumer_of(fake, Collector(), orderly=True, **options) as consumer:
        assert consumer._locks is not None
        calls = [
            wrong_once(monkeypatch, consumer.offsets, "commit"),
            wrong_once(monkeypatch, consumer, "consumer_data"),
            wrong_once(monkeypatch, consumer._locks, "renew"),
        ]
        await until(lambda: all(count > 2 for [count] in calls))


async def test_broker_that_lost_the_member_gets_a_heartbeat() -> None:
    async with cluster() as fake, consumer_of(fake, Collector()) as consumer:
        fake.broker.members["G"] = {"somebody else": fake.broker.members["G"][consumer.client_id]}
        consumer.rebalance_now()
        await until(lambda: consumer.client_id in fake.broker.members["G"])


async def test_subscriptions_can_change_while_running() -> None:
    async with cluster() as fake:
        fake.name_server.topics["U"] = {"broker-a": 1}
        fake.broker.put("U", 0, b"u")
        collector = Collector()
        async with consumer_of(fake, Collector()) as consumer:
            consumer.subscribe("U", "*", collector)
            await until(lambda: collector.bodies == ["u"])
            await until(lambda: any("U" in str(beat) for beat in fake.broker.heartbeats))
            consumer.unsubscribe("U")
            await until(lambda: all(queue.topic != "U" for queue in consumer.assignment))
            await until(lambda: fake.broker.offsets.get(("G", "U", 0)) == 1)


async def test_queues_invented_by_a_strategy_are_ignored() -> None:
    from rmq_redis.hookspecs import hookimpl
    from rmq_redis.plugins import create_plugin_manager

    class Inventive:
        @hookimpl
        def register_allocate_strategies(self) -> Any:
            def strategy(group: str, cid: str, mq_all: Any, cid_all: Any) -> Any:
                return [*mq_all[:1], msgspec.structs.replace(mq_all[0], queue_id=99)]

            return {"INVENTIVE": strategy}

    async with cluster() as fake:
        plugins = create_plugin_manager(plugins=(Inventive(),))
        async with consumer_of(fake, Collector(), allocate_strategy="INVENTIVE", plugins=plugins) as consumer:
            assert [queue.queue_id for queue in consumer.assignment] == [0, 0, 1]  # AVG's, the retry topic's first


# --- pull answers and broken brokers -----------------------------------------------------------------------------


async def test_offset_below_the_queue_moves_up() -> None:
    async with cluster() as fake:
        fake.broker.min_offsets["T", 0] = 100
        fake.broker.put("T", 0, *bodies(3))
        fake.broker.offsets["G", "T", 0] = 5
        collector = Collector()
        async with consumer_of(fake, collector):
            await until(lambda: len(collector.messages) == 3)
        assert fake.broker.offsets["G", "T", 0] == 103


async def test_offset_above_the_queue_moves_down() -> None:
    async with cluster() as fake:
        fake.broker.put("T", 0, *bodies(3))
        fake.broker.offsets["G", "T", 0] = 50
        collector = Collector()
        async with consumer_of(fake, collector):
            await until(lambda: fake.broker.offsets["G", "T", 0] == 3)
            fake.broker.put("T", 0, b"new")
            await until(lambda: collector.bodies == ["new"])


async def test_consumer_pulls_from_the_suggested_broker() -> None:
    async with cluster("broker-a", "broker-a") as fake:
        fake.brokers[1].broker_id = 1
        fake.brokers[1].queues = fake.brokers[0].queues

        def elsewhere(_connection: Any, command: Any) -> Any:
            return response(
                command, 20, PullMessageResponseHeader(1, command.header(PullMessageRequestHeader).queue_offset, 0, 0)
            )

        fake.broker.answers[RequestCode.PULL_MESSAGE] = [elsewhere] * 3
        fake.broker.put("T", 0, b"x")
        collector = Collector()
        async with consumer_of(fake, collector):
            await until(lambda: collector.messages)
            pulled = [
                command.header(PullMessageRequestHeader) for command in fake.brokers[1].of(RequestCode.PULL_MESSAGE)
            ]
            assert pulled
            assert not any(pull.sys_flag & PullSysFlag.COMMIT_OFFSET for pull in pulled)


async def test_empty_responses_do_not_cause_a_busy_loop() -> None:
    async with cluster() as fake:
        count = 0

        def nothing(_connection: Any, command: Any) -> Any:
            nonlocal count
            count += 1
            header = command.header(PullMessageRequestHeader)
            return response(command, 20, PullMessageResponseHeader(0, header.queue_offset, 0, 0))

        fake.broker.answers[RequestCode.PULL_MESSAGE] = [nothing] * 10000
        async with consumer_of(fake, Collector()):
            await asyncio.sleep(0.3)
        assert count < 60


@pytest.mark.parametrize("code", [2, 14, 215, 25])
async def test_failed_pulls_are_repeated(code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pulling, "RETRY_AFTER_ERROR_S", 0.05)
    async with cluster() as fake:
        fake.broker.put("T", 0, b"x")
        fake.broker.answers[RequestCode.PULL_MESSAGE] = [code] * 6
        collector = Collector()
        async with consumer_of(fake, collector):
            await until(lambda: collector.messages)


async def test_restarted_broker_is_found_again() -> None:
    async with cluster() as fake:
        fake.broker.put("T", 0, b"before")
        collector = Collector()
        async with consumer_of(fake, collector) as consumer:
            await until(lambda: collector.bodies == ["before"])
            port = fake.broker.port
            await fake.broker.stop()
            await fake.broker.start(port)
            fake.broker.put("T", 0, b"after")
            await until(lambda: "after" in collector.bodies)
            await until(lambda: consumer.client_id in fake.broker.members["G"])  # and told that we are there
        assert collector.bodies == ["before", "after"]


async def test_consumer_can_start_before_its_servers() -> None:
    fake = FakeCluster()
    await fake.broker.start()
    await fake.name_server.start()
    port = fake.name_server.server.port
    await fake.name_server.stop()
    collector = Collector()
    config = fake.config()
    consumer = AsyncPushConsumer("G", config=config, consume_from_where=FIRST)
    consumer.subscribe("T", "*", collector)
    try:
        async with consumer:
            await fake.name_server.start(port)
            fake.broker.put("T", 0, b"x")
            await until(lambda: collector.messages)
    finally:
        await fake.name_server.stop()
        await fake.broker.stop()


async def test_undecodable_body_does_not_stop_the_queue() -> None:
    async with cluster() as fake:
        fake.broker.put("T", 0, b"not zlib", sys_flag=1)
        fake.broker.put("T", 0, b"good")
        collector = Collector()
        async with consumer_of(fake, collector):
            await until(lambda: collector.messages and fake.broker.of(RequestCode.CONSUMER_SEND_MSG_BACK))
        assert collector.bodies == ["good"]


# --- closing -----------------------------------------------------------------------------------------------------


async def test_close_waits_for_handlers_and_commits() -> None:
    async with cluster() as fake:
        fake.broker.put("T", 0, *bodies(100))
        started: list[str] = []
        finished: list[str] = []

        async def handle(message: MessageExt) -> None:
            started.append(message.text())
            await asyncio.sleep(0.05)
            finished.append(message.text())

        async with consumer_of(fake, handle, concurrency=5):
            await until(lambda: len(started) >= 5)
        assert len(finished) == len(started) < 100
        assert fake.broker.offsets["G", "T", 0] == len(finished)


async def test_close_abandons_a_stuck_handler() -> None:
    async with cluster() as fake:
        fake.broker.put("T", 0, b"x")
        started = asyncio.Event()

        async def handle(message: MessageExt) -> None:
            started.set()
            await asyncio.sleep(60)

        async with consumer_of(fake, handle, await_termination_s=0.05):
            await started.wait()
        assert fake.broker.offsets.get(("G", "T", 0), 0) == 0


async def test_close_does_not_block_on_a_thread_of_direct_consumption() -> None:
    """What that thread waits for may need the loop: a ``Producer`` in a handler of a ``PushConsumer`` shares it."""
    began, go_on = threading.Event(), threading.Event()
    in_time: list[bool] = []

    def handle(message: MessageExt) -> None:
        began.set()
        in_time.append(go_on.wait(5))

    async with cluster() as fake:
        consumer = consumer_of(fake, handle)
        async with consumer:
            record = fake.broker._record("T", 0, b"x", 0)
            command = request(RequestCode.CONSUME_MESSAGE_DIRECTLY, body=record)
            command.fields = {"consumerGroup": "G", "brokerName": "broker-a"}
            asked = asyncio.create_task(fake.broker.ask(consumer.client_id, "G", command))
            await until(began.is_set)
            closing = asyncio.create_task(consumer.close())
            await until(lambda: consumer.service.stopping)
            await until(lambda: consumer.service._pool is None or consumer.service._pool._shutdown)
            go_on.set()
            await closing
            await asyncio.gather(asked, return_exceptions=True)
    await until(lambda: in_time)
    assert in_time == [True]


async def test_close_is_allowed_twice_and_before_start() -> None:
    async with cluster() as fake:
        consumer = consumer_of(fake, Collector())
        await consumer.start()
        await consumer.close()
        await consumer.close()
        assert consumer.assignment == []
        never_started = consumer_of(fake, Collector())
        await never_started.close()
        assert never_started.started_at_ms == 0


def test_invalid_options_are_refused() -> None:
    for options in (
        {"group": "a b"},
        {"group": "G", "pull_batch_size": 0},
        {"group": "G", "pull_batch_size": 2000},
        {"group": "G", "concurrency": 0},
        {"group": "G", "allocate_strategy": "NOPE"},
        {"group": "G", "consume_from_where": "NOWHERE"},
        {"group": "G", "message_model": "NONE"},
    ):
        with pytest.raises(ConfigError):
            AsyncPushConsumer(**options)  # type: ignore[arg-type]
    consumer = AsyncPushConsumer("G")
    for arguments in (("T",), ("T", "*", "no function"), ("bad topic", "*", print)):
        with pytest.raises(ClientError):
            consumer.subscribe(*arguments)  # type: ignore[arg-type]


async def test_start_without_a_subscription_is_refused() -> None:
    with pytest.raises(ClientError, match="no subscription"):
        await AsyncPushConsumer("G").start()


# --- requests of brokers -----------------------------------------------------------------------------------------


async def test_broker_resets_offsets() -> None:
    async with cluster() as fake:
        fake.broker.put("T", 0, *bodies(10))
        collector = Collector()
        async with consumer_of(fake, collector) as consumer:
            await until(lambda: len(collector.messages) == 10)
            for table in ({fake.queue(0): 7}, [{"topic": "T", "brokerName": "broker-a", "queueId": 0, "offset": 7}]):
                collector.messages.clear()
                command = request(RequestCode.RESET_CONSUMER_CLIENT_OFFSET, body=dumps({"offsetTable": table}))
                command.fields = {"group": "G", "topic": "T", "timestamp": "0", "isForce": "true"}
                assert (await fake.broker.ask(consumer.client_id, "G", command)).code == 0
                await until(lambda: collector.bodies == ["7", "8", "9"])


async def test_status_and_running_info_are_returned() -> None:
    async with cluster() as fake:
        fake.broker.put("T", 0, *bodies(4))
        collector = Collector()
        async with consumer_of(fake, collector) as consumer:
            await until(lambda: len(collector.messages) == 4)
            command = request(RequestCode.GET_CONSUMER_STATUS_FROM_CLIENT)
            command.fields = {"group": "G", "topic": "T"}
            answer = await fake.broker.ask(consumer.client_id, "G", command)
            assert b'{"brokerName":"broker-a","queueId":0,"topic":"T"}:4' in answer.body
            command = request(RequestCode.GET_CONSUMER_RUNNING_INFO)
            command.fields = {"consumerGroup": "G", "clientId": consumer.client_id}
            answer = await fake.broker.ask(consumer.client_id, "G", command)
            from rmq_redis.protocol.bodies.base import loads

            info = loads(answer.body)
            assert info["mqTable"][fake.queue(0)]["commitOffset"] == 4
            assert info["properties"]["PROP_CONSUMEORDERLY"] == "false"
            assert {item["topic"] for item in info["subscriptionSet"]} == {"T", "%RETRY%G"}


async def test_message_is_consumed_directly() -> None:
    async with cluster() as fake:
        seen: list[str] = []

        async def handle(message: MessageExt) -> bool:
            seen.append(message.topic)
            if message.body == b"raise":
                raise ValueError("as told")
            return message.body == b"good"

        async with consumer_of(fake, handle) as consumer:
            for body, expected in ((b"good", "CR_SUCCESS"), (b"bad", "CR_LATER"), (b"raise", "CR_THROW_EXCEPTION")):
                record = fake.broker._record("%RETRY%G", 0, body, 0, properties="RETRY_TOPIC\x01T\x02")
                command = request(RequestCode.CONSUME_MESSAGE_DIRECTLY, body=record)
                command.fields = {"consumerGroup": "G", "brokerName": "broker-a"}
                answer = await fake.broker.ask(consumer.client_id, "G", command)
                assert json.loads(answer.body)["consumeResult"] == expected
        assert seen == ["T", "T", "T"]


async def test_unknown_requests_are_not_supported() -> None:
    async with cluster() as fake, consumer_of(fake, Collector()) as consumer:
        answer = await fake.broker.ask(consumer.client_id, "G", request(RequestCode.PUSH_REPLY_MESSAGE_TO_CLIENT))
        assert answer.code == ResponseCode.REQUEST_CODE_NOT_SUPPORTED
        command = request(RequestCode.GET_CONSUMER_RUNNING_INFO)
        command.fields = {"consumerGroup": "unknown"}
        assert (await fake.broker.ask(consumer.client_id, "G", command)).code == ResponseCode.SYSTEM_ERROR
        assert rebalance.LOCK_LIVE_S == 30.0


async def test_retry_limit_holds_while_no_broker_takes_a_message_back(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(consume, "LOCAL_RETRY_S", 0.01)
    async with cluster() as fake:
        fake.broker.put("T", 0, b"bad", b"good")
        fake.broker.unsupported |= {RequestCode.CONSUMER_SEND_MSG_BACK, RequestCode.SEND_MESSAGE_V2}
        seen: list[tuple[str, int]] = []

        async def handle(message: MessageExt) -> bool:
            seen.append((message.text(), message.reconsume_times))
            if message.body == b"bad":
                raise ValueError("no")
            return True

        async with consumer_of(fake, handle, max_reconsume_times=2):
            await until(lambda: sum("stays here" in record.getMessage() for record in caplog.records) > 6)
            assert [tries for text, tries in seen if text == "bad"] == [0, 1, 2]
            fake.broker.unsupported.clear()  # it comes with its count, so that the broker makes it a dead letter
            await until(lambda: bool(sends(fake.broker)) and fake.broker.offsets.get(("G", "T", 0)) == 2)
        assert sends(fake.broker)[-1].reconsume_times == 3
        texts = [record.getMessage() for record in caplog.records if "handler failed" in record.getMessage()]
        assert ["attempt 1 of 3, next in 10 s" in texts[0], "attempt 3 of 3, it becomes a dead letter" in texts[2]] == [
            True
        ] * 2
