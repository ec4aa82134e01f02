"""Brokers in this process, on ports that the system chose, over the embedded Valkey."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
from helpers import BrokerClient, Connect, FakeNameServer, StartBroker

from rmq_redis.broker.broker import Broker
from rmq_redis.config import BrokerConfig
from rmq_redis.store.embedded import EmbeddedServer


@pytest.fixture
async def fake_namesrv() -> AsyncIterator[FakeNameServer]:
    """A NameServer that answers registrations with success."""
    namesrv = FakeNameServer()
    await namesrv.start()
    yield namesrv
    await namesrv.close()


@pytest.fixture
async def start_broker(
    embedded_server: EmbeddedServer, key_prefix: str, fake_namesrv: FakeNameServer
) -> AsyncIterator[StartBroker]:
    """Starts brokers of the group broker-a; all of a test have one store."""
    brokers: list[Broker] = []

    async def start(**settings: Any) -> Broker:
        defaults: dict[str, Any] = {
            "listen_host": "127.0.0.1",
            "listen_port": 0,
            "store": embedded_server.url,
            "key_prefix": key_prefix,
            "namesrv_addr": fake_namesrv.address,
            "slave_poll_period_s": 0.02,
        }
        broker = Broker(BrokerConfig(**(defaults | settings)))
        brokers.append(broker)
        await broker.start()
        return broker

    yield start
    for broker in reversed(brokers):
        await broker.close()


@pytest.fixture
async def broker(start_broker: StartBroker) -> Broker:
    """A master with the default settings."""
    return await start_broker()


@pytest.fixture
async def connect() -> AsyncIterator[Connect]:
    """Makes clients of a broker, each with a connection of its own."""
    clients: list[BrokerClient] = []

    def make(broker: Broker) -> BrokerClient:
        clients.append(BrokerClient(broker.address))
        return clients[-1]

    yield make
    for client in clients:
        await client.close()


@pytest.fixture
def client(broker: Broker, connect: Connect) -> BrokerClient:
    """A client of ``broker``."""
    return connect(broker)
