"""The fakes that the client is tested with."""

from __future__ import annotations

import msgspec
from client_fakes import (
    cluster,
)

from rmq_redis.codes import RequestCode
from rmq_redis.protocol.command import request
from rmq_redis.protocol.headers.admin import TopicRequestHeader
from rmq_redis.protocol.headers.offsets import OffsetResponseHeader, QueueOffsetRequestHeader
from rmq_redis.remoting.client import RemotingClient


async def test_fakes_speak_the_protocol() -> None:
    async with cluster() as fake:
        client = RemotingClient()
        answer = await client.call(
            fake.namesrv_addr, request(RequestCode.GET_ROUTEINFO_BY_TOPIC, TopicRequestHeader("T"))
        )
        assert msgspec.json.decode(answer.body)["queueDatas"][0]["brokerName"] == "broker-a"
        fake.broker.put("T", 0, b"x")
        header = QueueOffsetRequestHeader("T", 0)
        answer = await client.call(fake.broker.address, request(RequestCode.GET_MAX_OFFSET, header))
        assert answer.header(OffsetResponseHeader).offset == 1
        await client.close()
