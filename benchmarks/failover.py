"""How long a broker group takes no writes when its master is killed: ``python benchmarks/failover.py``.

Two groups of a master and a slave; ``kill -9`` of one master; the time until the SDK, with its default settings, has
the first acknowledged write on that group, and the first one on any group. The killed process then comes back as a
slave, and the next round kills the new master.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import statistics
import tempfile
from pathlib import Path

from rmq_redis import AsyncAdmin, AsyncProducer, Message, MessageQueue
from rmq_redis.errors import RmqError
from rmq_redis.localcluster.cluster import Cluster, ClusterSpec, Role
from rmq_redis.runtime import run

TOPIC = "failover"
GROUP = "broker-a"
PAUSE_S = 0.01
DEADLINE_S = 60.0


async def first_ack(producer: AsyncProducer, queue: MessageQueue | None) -> float:
    """Sends until a send is acknowledged; the loop's time of that."""
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(DEADLINE_S):
        while True:
            try:
                await producer.send(Message(TOPIC, b"x"), queue=queue)
                return loop.time()
            except RmqError:
                await asyncio.sleep(PAUSE_S)


async def brokers_of(admin: AsyncAdmin) -> dict[int, str]:
    """brokerId -> address of the group."""
    route = await admin.topic_route(TOPIC)
    return next(broker.broker_addrs for broker in route.broker_datas if broker.broker_name == GROUP)


async def measure(rounds: int) -> tuple[list[float], list[float]]:
    """Seconds until the first acknowledged write on the group, and on any group, of each round."""
    loop = asyncio.get_running_loop()
    of_group: list[float] = []
    of_any: list[float] = []
    with tempfile.TemporaryDirectory(prefix="rmq-redis-failover-") as directory:
        spec = ClusterSpec(data_dir=Path(directory), brokers=2, slaves=1, restart=(), log_level="warning")
        async with Cluster(spec) as cluster, AsyncAdmin(cluster.namesrv_addr) as admin:
            await admin.create_topic(TOPIC, queue_nums=4)
            await admin.wait_for_route(TOPIC)
            roles: dict[str, Role] = {role.address: role for role in cluster.brokers}
            queue = MessageQueue(TOPIC, GROUP, 0)
            for _ in range(rounds):
                while set(addresses := await brokers_of(admin)) != {0, 1}:
                    await asyncio.sleep(0.1)
                async with (
                    AsyncProducer("failover-group", cluster.namesrv_addr) as on_group,
                    AsyncProducer("failover-any", cluster.namesrv_addr) as on_any,
                ):
                    for _ in range(20):
                        await on_group.send(Message(TOPIC, b"warm"), queue=queue)
                        await on_any.send(Message(TOPIC, b"warm"))
                    master = roles[addresses[0]]
                    began = loop.time()
                    master.kill()
                    group_at, any_at = await asyncio.gather(first_ack(on_group, queue), first_ack(on_any, None))
                of_group.append(group_at - began)
                of_any.append(any_at - began)
                await master.launch()
    return of_group, of_any


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--lease-s", type=float, help="lease_s of the brokers; default: theirs")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.ERROR)
    if arguments.lease_s is not None:
        os.environ["RMQ_REDIS_LEASE_S"] = str(arguments.lease_s)
    of_group, of_any = run(measure(arguments.rounds))
    lease = "default" if arguments.lease_s is None else f"{arguments.lease_s:g} s"
    for what, seconds in (("the group of the killed master", of_group), ("any group", of_any)):
        print(
            f"lease {lease}: first acknowledged write on {what}: "
            f"median {statistics.median(seconds):.2f} s, longest {max(seconds):.2f} s of {len(seconds)}"
        )


if __name__ == "__main__":
    main()
