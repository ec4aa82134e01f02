"""Ready means: the NameServers show the brokers that were started now, and no remains of an earlier run."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import pytest

from rmq_redis.codes import RequestCode
from rmq_redis.localcluster.readiness import Readiness
from rmq_redis.model import BrokerData
from rmq_redis.protocol.bodies.base import dumps
from rmq_redis.protocol.bodies.route import ClusterInfo, encode_cluster_info
from rmq_redis.protocol.command import RemotingCommand, response
from rmq_redis.protocol.headers.registration import UnregisterBrokerRequestHeader
from rmq_redis.remoting.client import RemotingClient
from rmq_redis.remoting.connection import Connection
from rmq_redis.remoting.server import RemotingServer
from rmq_redis.store.embedded import free_port


@dataclass
class Fake:
    """A NameServer and broker at one address, which says what a test has set."""

    server: RemotingServer
    label: str = "fake"
    broker_name: str = "broker-a"
    registered: list[str] = field(default_factory=list)
    shown: dict[str, dict[int, str]] = field(default_factory=dict)
    unregistered: list[str] = field(default_factory=list)

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.server.port}"

    def runtime_info(self, connection: Connection, command: RemotingCommand) -> RemotingCommand:
        return response(command, body=dumps({"table": {"registeredNamesrvs": ";".join(self.registered)}}))

    def cluster_info(self, connection: Connection, command: RemotingCommand) -> RemotingCommand:
        groups = {name: BrokerData("DefaultCluster", name, addresses) for name, addresses in self.shown.items()}
        return response(command, body=encode_cluster_info(ClusterInfo(groups, {"DefaultCluster": list(groups)})))

    def unregister(self, connection: Connection, command: RemotingCommand) -> RemotingCommand:
        header = command.header(UnregisterBrokerRequestHeader)
        assert self.shown[header.broker_name].pop(header.broker_id) == header.broker_addr
        if not self.shown[header.broker_name]:
            del self.shown[header.broker_name]
        self.unregistered.append(header.broker_addr)
        return response(command)


async def started(label: str) -> Fake:
    processors: dict[int, object] = {}
    fake = Fake(RemotingServer(processors), label)  # type: ignore[arg-type]
    processors |= {
        RequestCode.GET_BROKER_RUNTIME_INFO: fake.runtime_info,
        RequestCode.GET_BROKER_CLUSTER_INFO: fake.cluster_info,
        RequestCode.UNREGISTER_BROKER: fake.unregister,
    }
    await fake.server.start("127.0.0.1", 0)
    return fake


@pytest.fixture
async def namesrv() -> AsyncIterator[Fake]:
    fake = await started("namesrv-1")
    yield fake
    await fake.server.close()


@pytest.fixture
async def broker(namesrv: Fake) -> AsyncIterator[Fake]:
    fake = await started("broker-a master")
    fake.registered = [namesrv.address]
    namesrv.shown = {"broker-a": {0: fake.address}}
    yield fake
    await fake.server.close()


@pytest.fixture
async def client() -> AsyncIterator[RemotingClient]:
    made = RemotingClient()
    yield made
    await made.close()


@pytest.fixture(params=[True, False], ids=["own registry", "shared registry"])
def readiness(request: pytest.FixtureRequest, client: RemotingClient) -> Readiness:
    return Readiness(client, owns_registry=request.param)


async def test_nothing_is_missing_when_all_have_registered(readiness: Readiness, namesrv: Fake, broker: Fake) -> None:
    assert await readiness.missing([namesrv], [broker]) == ""
    assert await readiness.missing([], [broker]) == "no NameServer is left"


async def test_registration_of_an_earlier_process_does_not_count(
    readiness: Readiness, namesrv: Fake, broker: Fake
) -> None:
    broker.registered = []
    assert await readiness.missing([namesrv], [broker]) == "broker-a master has not registered at namesrv-1 yet"


async def test_broker_absent_from_the_route_is_missing(readiness: Readiness, namesrv: Fake, broker: Fake) -> None:
    namesrv.shown = {}
    assert await readiness.missing([namesrv], [broker]) == "namesrv-1 does not know broker-a master yet"
    namesrv.shown = {"broker-a": {1: broker.address}}
    assert await readiness.missing([namesrv], [broker]) == "namesrv-1 shows no master of broker-a yet"


async def test_address_of_a_dead_broker_is_removed(readiness: Readiness, namesrv: Fake, broker: Fake) -> None:
    dead = f"127.0.0.1:{free_port()}"
    namesrv.shown["broker-a"][1] = dead
    text = f"namesrv-1 still shows {dead} as broker-a:1, which this cluster has not started"
    assert await readiness.missing([namesrv], [broker]) == text
    assert namesrv.unregistered == [dead]
    assert await readiness.missing([namesrv], [broker]) == ""


async def test_address_of_another_running_broker_is_reported_and_stays(
    readiness: Readiness, namesrv: Fake, broker: Fake
) -> None:
    other = await started("other")
    namesrv.shown["broker-a"][1] = other.address
    for _ in range(2):
        assert f"namesrv-1 still shows {other.address} as broker-a:1" in await readiness.missing([namesrv], [broker])
    assert namesrv.unregistered == []
    await other.server.close()


async def test_unstarted_group_is_removed_only_from_an_own_registry(
    client: RemotingClient, namesrv: Fake, broker: Fake
) -> None:
    dead = f"127.0.0.1:{free_port()}"
    namesrv.shown["broker-b"] = {0: dead}
    assert await Readiness(client, owns_registry=False).missing([namesrv], [broker]) == ""
    assert "broker-b:0" in await Readiness(client, owns_registry=True).missing([namesrv], [broker])
    assert namesrv.unregistered == [dead]
