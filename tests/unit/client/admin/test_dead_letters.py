"""Dead letters: read, sent to their topics again, and what is remembered of that."""

from __future__ import annotations

import pytest
from client_fakes import FakeCluster, cluster, sends

from rmq_redis.client.admin.dead_letters import RESEND_GROUP, DeadLetters
from rmq_redis.client.consume.pull import AsyncPullConsumer
from rmq_redis.client.produce.producer import AsyncProducer
from rmq_redis.codes import RequestCode, ResponseCode
from rmq_redis.errors import MessageIllegalLocallyError, ResponseError
from rmq_redis.model import MessageQueue
from rmq_redis.protocol.properties import decode_properties

QUEUE = MessageQueue("%DLQ%G", "broker-a", 0)


def put(fake: FakeCluster, *numbers: int, first_offset: int = 0, more: str = "") -> None:
    """Dead letters number n with the id An, the tag n and a life behind them."""
    fake.name_server.topics["%DLQ%G"] = {"broker-a": 1}
    fake.broker.min_offsets["%DLQ%G", 0] = first_offset
    for number in numbers:
        properties = (
            f"UNIQ_KEY\x01A{number}\x02TAGS\x01{number}\x02KEYS\x01k\x02mine\x01x\x02RETRY_TOPIC\x01T\x02"
            f"ORIGIN_MESSAGE_ID\x01O{number}\x02WAIT\x01false\x02CLUSTER\x01c\x02TRACE_ON\x01true\x02DELAY\x013\x02{more}"
        )
        fake.broker.put("%DLQ%G", 0, b"body %d" % number, properties=properties, flag=7, reconsume_times=17)


async def resend(fake: FakeCluster, **options: object) -> list[str]:
    """Ids of what was sent again."""
    async with (
        AsyncPullConsumer(RESEND_GROUP, config=fake.config()) as consumer,
        AsyncProducer("PG", config=fake.config(retry_times_when_send_failed=0)) as producer,
    ):
        letters = DeadLetters(consumer, "G")
        return [message.msg_id async for message, _ in letters.resend(producer, **options)]  # type: ignore[arg-type]


def committed(fake: FakeCluster) -> int | None:
    return fake.broker.offsets.get((RESEND_GROUP, "%DLQ%G", 0))


async def test_resent_dead_letter_equals_the_original_message() -> None:
    async with cluster() as fake:
        put(fake, 1)
        assert await resend(fake) == ["A1"]
        (header,) = sends(fake.broker)
        assert (header.topic, header.flag, header.reconsume_times) == ("T", 7, 0)
        assert decode_properties(header.properties or "") == {
            "UNIQ_KEY": "A1",
            "TAGS": "1",
            "KEYS": "k",
            "mine": "x",
            "ORIGIN_MESSAGE_ID": "O1",
            "WAIT": "true",
        }
        assert fake.broker.of(RequestCode.SEND_MESSAGE_V2)[0].body == b"body 1"


async def test_dead_letters_are_resent_once_even_after_an_interruption() -> None:
    async with cluster() as fake:
        put(fake, *range(50), first_offset=5)
        fake.broker.answers[RequestCode.SEND_MESSAGE_V2] = [None] * 40 + [ResponseCode.MESSAGE_ILLEGAL]
        with pytest.raises(ResponseError):
            await resend(fake)
        assert committed(fake) == 45
        assert await resend(fake) == [f"A{number}" for number in range(40, 50)]
        assert await resend(fake) == []
        put(fake, 50, first_offset=5)
        assert await resend(fake) == ["A50"]
        assert committed(fake) == 56
        assert await resend(fake, again=True) == [f"A{number}" for number in range(51)]
        assert committed(fake) == 56


async def test_chosen_dead_letters_are_always_resent() -> None:
    async with cluster() as fake:
        put(fake, *range(5))
        assert await resend(fake, ids={"A0", "O3"}) == ["A0", "A3"]
        assert committed(fake) == 1  # the first of all, but not the fourth: the others are still to be sent
        assert await resend(fake, ids={"A0"}) == ["A0"]
        assert await resend(fake, ids={"unknown"}) == []
        assert await resend(fake) == ["A1", "A2", "A3", "A4"]


async def test_sharding_key_of_a_dead_letter_chooses_the_queue() -> None:
    async with cluster() as fake:
        put(fake, 1, 2, 3, 4, more="__SHARDINGKEY\x01order-7\x02")
        await resend(fake)
        assert len({header.queue_id for header in sends(fake.broker)}) == 1


async def test_dead_letter_without_an_origin_is_named() -> None:
    async with cluster() as fake:
        fake.name_server.topics["%DLQ%G"] = {"broker-a": 1}
        fake.broker.put("%DLQ%G", 0, b"stray", properties="UNIQ_KEY\x01A1\x02")
        with pytest.raises(MessageIllegalLocallyError, match=r"A1.*no origin topic"):
            await resend(fake)
        assert committed(fake) is None


async def test_group_without_dead_letters_resends_nothing() -> None:
    async with cluster() as fake:
        assert await resend(fake) == []
        async with AsyncPullConsumer(RESEND_GROUP, config=fake.config()) as consumer:
            assert await DeadLetters(consumer, "G").queues() == {}
