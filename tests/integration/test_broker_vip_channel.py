"""The VIP channel: old Java clients send to the port two below a broker's own."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest
from helpers import BrokerClient, StartBroker

from rmq_redis.broker.broker import Broker
from rmq_redis.errors import ConfigError, RemotingConnectError
from rmq_redis.store.embedded import free_port


def free_pair() -> int:
    """A port that is free, as is the one two below it."""
    while True:
        port = free_port()
        try:
            for each in (port, port - 2):
                socket.create_server(("127.0.0.1", each)).close()
        except OSError:
            continue
        return port


@pytest.fixture
def taken() -> Iterator[int]:
    """A port that somebody else listens on; the one two above it is free."""
    port = free_pair() - 2
    with socket.create_server(("127.0.0.1", port)):
        yield port


async def sends(port: int) -> bool:
    """Whether a broker takes sends at a port."""
    client = BrokerClient(f"127.0.0.1:{port}")
    try:
        await client.send("T", "a")
    except RemotingConnectError:
        return False
    finally:
        await client.close()
    return True


async def test_broker_also_listens_two_below_its_port(start_broker: StartBroker) -> None:
    broker = await start_broker(listen_port=free_pair())
    assert broker.fast_port == broker.port - 2
    assert await sends(broker.fast_port)
    assert await sends(broker.port)


async def test_port_chosen_by_the_system_has_a_vip_port_too(broker: Broker) -> None:
    assert broker.fast_port in (0, broker.port - 2)  # 0: that one happens to be taken
    if broker.fast_port:
        assert await sends(broker.fast_port)


async def test_vip_port_in_use_is_skipped(start_broker: StartBroker, taken: int) -> None:
    broker = await start_broker(listen_port=taken + 2)
    assert broker.fast_port == 0
    assert await sends(broker.port)


async def test_vip_port_0_disables_it(start_broker: StartBroker) -> None:
    broker = await start_broker(listen_port=free_pair(), fast_listen_port=0)
    assert broker.fast_port == 0
    assert not await sends(broker.port - 2)


async def test_configured_vip_port_must_be_free(start_broker: StartBroker, taken: int) -> None:
    chosen = free_pair()
    broker = await start_broker(fast_listen_port=chosen)
    assert broker.fast_port == chosen
    assert await sends(chosen)
    with pytest.raises(ConfigError, match=f"{taken}: it is in use"):
        await start_broker(broker_id=1, fast_listen_port=taken)
    with pytest.raises(ConfigError, match="fast_listen_port is 70000"):
        await start_broker(broker_id=1, fast_listen_port=70_000)


async def test_closed_broker_listens_on_no_port(start_broker: StartBroker) -> None:
    broker = await start_broker(listen_port=free_pair())
    await broker.close()
    assert not await sends(broker.fast_port)
    again = await start_broker(listen_port=broker.port)
    assert again.fast_port == broker.fast_port
