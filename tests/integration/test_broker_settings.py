"""Settings of a broker that show in its registration."""

from __future__ import annotations

from helpers import FakeNameServer, StartBroker

from rmq_redis.protocol.headers.registration import RegisterBrokerRequestHeader


async def test_cluster_name_and_advertised_port_are_registered(
    start_broker: StartBroker, fake_namesrv: FakeNameServer
) -> None:
    await start_broker(cluster_name="east", advertised_port=12345)
    header = fake_namesrv.registrations[-1].header(RegisterBrokerRequestHeader)
    assert header.cluster_name == "east"
    assert header.broker_addr.endswith(":12345")
