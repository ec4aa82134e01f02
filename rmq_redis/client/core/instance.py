"""MQClientInstance: what a producer, consumer or admin client has in common.

One set of connections, the routes in use, heartbeats to their brokers, and the requests that brokers send.
"""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
import logging
import os
import socket
from collections.abc import Coroutine, Iterable, Mapping
from typing import Any, Protocol

from ...background import Every
from ...codes import RequestCode, ResponseCode
from ...config import ClientConfig, check_settings, from_env, parse_addresses
from ...errors import ClientError, ConfigError, RemotingError, ResponseError, RouteNotFoundError
from ...hosts import pack_host
from ...model import group_name_error
from ...protocol.bodies.heartbeat import ConsumerData, HeartbeatData, ProducerData, SubscriptionData
from ...protocol.command import RemotingCommand, response
from ...protocol.headers.clients import ConsumerGroupRequestHeader, ConsumerRequestHeader
from ...protocol.ids import UniqKeyGenerator
from ...remoting.client import RemotingClient
from ...remoting.connection import Connection
from ...remoting.dispatch import Processor
from . import forking
from .broker_api import BrokerApi
from .route import NameServers, RouteTable

logger = logging.getLogger(__name__)

MIN_HEARTBEAT_INTERVAL_S = 0.2
"""Heartbeats that changes ask for are at least this far apart."""

_INTRODUCED = "introduced"
_instance_numbers = itertools.count(1)


class ConsumerInner(Protocol):
    """What the instance needs of a consumer that is registered with it."""

    def consumer_data(self) -> ConsumerData:
        """The group's part of the heartbeat."""

    def rebalance_now(self) -> None:
        """A broker says that the group's members changed."""

    async def handle_request(self, command: RemotingCommand) -> RemotingCommand | None:
        """Answers 220, 221, 307 and 309."""


class MQClientInstance:
    """Connections, routes and heartbeats of one client.

    Attributes:
        client_id: ``ip@pid#number``; known after ``start``.
        is_inherited: this process got it by a fork after its start, and cannot use it.
        loop: the event loop that it was started in.
        routes: the routes of the topics in use.
        broker: typed calls to brokers.
        unique_keys: makes message ids.
        processors: answers further requests of brokers, by code; to be set before ``start``.
        loops: what it repeats until it is closed.
    """

    def __init__(self, config: ClientConfig) -> None:
        self.config = config
        self.client_id = ""
        self.client_ip = config.client_ip
        self._addresses = parse_addresses(config.namesrv_addr)
        self._producers: set[str] = set()
        self._consumers: dict[str, ConsumerInner] = {}
        self._background: set[asyncio.Task[Any]] = set()
        self._unanswered = 0
        self.loops: list[Every] = []
        self._started = False
        self._closed = False
        self._process_id = 0
        self.is_inherited = False
        self.loop: asyncio.AbstractEventLoop | None = None
        self.processors: dict[int, Processor] = {}
        self._beats: Every
        self.remoting: RemotingClient
        self.routes: RouteTable
        self.broker: BrokerApi
        self.unique_keys: UniqKeyGenerator

    async def start(self) -> None:
        """Starts the background tasks. Opens no connection yet: a client may start before its servers do.

        Raises:
            ConfigError: no NameServer address that can be used.
        """
        self.check_process()
        if self._started or self._closed:
            raise ClientError("started twice: a client is started once, and a closed one is not started again")
        self._started = True
        if not self.client_ip:
            self.client_ip = await _local_ip(self._addresses[0])
        name = self.config.instance_name or f"{os.getpid()}#{next(_instance_numbers)}{os.urandom(3).hex()}"
        self.client_id = f"{self.client_ip}@{name}" + (f"@{self.config.zone}" if self.config.zone else "")
        interval_s = self.config.heartbeat_broker_interval_s
        self._beats = Every(interval_s, self._beat, f"{self.client_id}: heartbeat", at_once=True)
        polls = Every(self.config.poll_name_server_interval_s, self._poll_routes, f"{self.client_id}: routes")
        self.loops = [self._beats, polls]
        self.unique_keys = UniqKeyGenerator(pack_host(f"{self.client_ip}:0")[:-4], os.getpid(), os.urandom(4))
        consumer_codes = (
            RequestCode.RESET_CONSUMER_CLIENT_OFFSET,
            RequestCode.GET_CONSUMER_STATUS_FROM_CLIENT,
            RequestCode.GET_CONSUMER_RUNNING_INFO,
            RequestCode.CONSUME_MESSAGE_DIRECTLY,
        )
        self.remoting = RemotingClient(
            {
                RequestCode.NOTIFY_CONSUMER_IDS_CHANGED: self._consumer_ids_changed,
                **dict.fromkeys(consumer_codes, self._consumer_request),
                **self.processors,
            },
            connect_timeout_s=self.config.connect_timeout_s,
            on_close=self._connection_closed,
        )
        self.routes = RouteTable(
            NameServers(
                self.remoting,
                self._addresses,
                self.config.request_timeout_s,
                zone=self.config.zone if self.config.zone_mode else None,
            )
        )
        self.routes.on_broker_change.append(self.heartbeat_soon)
        self.broker = BrokerApi(self.remoting, self.config.request_timeout_s, self.config.max_decompressed_bytes)
        for loop in self.loops:
            loop.start()
        self._process_id = os.getpid()
        self.loop = asyncio.get_running_loop()
        forking.track(self)

    def forked(self) -> None:
        """In a forked child: gives the parent's connections up; every call raises ClientError from now on."""
        if self._closed:
            return
        self._closed = True
        self.is_inherited = True
        self.routes.abandon()
        for connection in self.remoting.abandon(forking.inherited_error(self._process_id)):
            forking.keep(connection)
            forking.detach(connection.fileno())

    def check_process(self) -> None:
        """Raises ClientError in a process that got this client by a fork after its start."""
        if self.is_inherited:
            raise forking.inherited_error(self._process_id)

    def zone_of(self, broker_name: str) -> str:
        """The zone that a broker group registered; "" while none is known."""
        return self.routes.zones.get(broker_name, "") if self._started else ""

    async def close(self) -> None:
        """Leaves the groups, ends the background tasks, closes the connections. A second call does nothing."""
        if self._closed or not self._started:
            self._closed = True
            return
        self._closed = True
        for loop in self.loops:
            await loop.close()
        for group in list(self._consumers):
            await self.unregister_consumer(group)
        for group in list(self._producers):
            await self.unregister_producer(group)
        self.routes.close()
        caller = asyncio.current_task()  # a transaction's listener may close its producer
        ending = [task for task in self._background if task is not caller]
        for background in ending:
            background.cancel()
        try:
            await asyncio.gather(*ending, return_exceptions=True)
        finally:
            await self.remoting.close()

    def spawn(self, coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """A task that ends with the instance at the latest; a failure is logged."""
        task = asyncio.get_running_loop().create_task(coroutine)
        self._background.add(task)
        task.add_done_callback(self._background_done)
        return task

    def _background_done(self, task: asyncio.Task[None]) -> None:
        self._background.discard(task)
        if not task.cancelled() and task.exception() is not None:
            logger.error("%s: a background task failed", self.client_id, exc_info=task.exception())

    # --- groups --------------------------------------------------------------------------------------------------

    def register_producer(self, group: str) -> None:
        """Makes the producer group part of the heartbeats."""
        self._producers.add(group)
        self.heartbeat_soon()

    def register_consumer(self, group: str, consumer: ConsumerInner) -> None:
        """Makes the consumer group part of the heartbeats. Raises ClientError when it is already."""
        if group in self._consumers:
            raise ClientError(f"consumer group {group!r} is registered already with this client")
        self._consumers[group] = consumer
        self.heartbeat_soon()

    async def unregister_producer(self, group: str) -> None:
        """Tells the brokers that this client leaves the producer group."""
        self._producers.discard(group)
        await self._unregister(producer_group=group)

    async def unregister_consumer(self, group: str) -> None:
        """Tells the brokers that this client leaves the consumer group."""
        if self._consumers.pop(group, None) is not None:
            await self._unregister(consumer_group=group)

    async def _unregister(self, *, producer_group: str | None = None, consumer_group: str | None = None) -> None:
        async def tell(address: str) -> None:
            try:
                await self.broker.unregister(
                    address, self.client_id, producer_group=producer_group, consumer_group=consumer_group
                )
            except (RemotingError, ResponseError) as error:
                logger.debug("%s: not unregistered at %s: %s", self.client_id, address, error)

        # Only where we are connected: a broker that lost the connection has forgotten us already.
        await asyncio.gather(
            *(
                tell(address)
                for address in self.routes.addresses(masters_only=False)
                if address in self.remoting.connections
            )
        )

    # --- heartbeats and routes -----------------------------------------------------------------------------------

    def heartbeat_soon(self) -> None:
        """Has a heartbeat sent now, because something changed."""
        self._beats.wake()

    async def heartbeat(self) -> bool:
        """Sends a heartbeat to every broker of the routes in use; returns whether all of them answered."""
        data = self._heartbeat_data()
        if not data.producer_data_set and not data.consumer_data_set:
            return True
        addresses = self.routes.addresses(masters_only=not data.consumer_data_set)
        return all(await asyncio.gather(*(self.heartbeat_to(address, data) for address in addresses)))

    def _heartbeat_data(self) -> HeartbeatData:
        return HeartbeatData(
            client_id=self.client_id,
            producer_data_set=[ProducerData(group) for group in sorted(self._producers)],
            consumer_data_set=[consumer.consumer_data() for consumer in self._consumers.values()],
        )

    async def heartbeat_to(self, address: str, data: HeartbeatData) -> bool:
        try:
            await self.broker.heartbeat(address, data)
        except (RemotingError, ResponseError) as error:
            logger.warning("%s: heartbeat to broker %s failed: %s", self.client_id, address, error)
            return False
        connection = self.remoting.connections.get(address)
        if connection is not None:
            connection.attachments[_INTRODUCED] = True
        return True

    async def check_subscriptions(self, group: str, subscriptions: Iterable[SubscriptionData]) -> None:
        """Asks each topic's brokers whether they can filter by its expression, if that is not by tags.

        Raises:
            ResponseError: one cannot; it says why. A broker that does not answer is passed over: the pulls will tell.
        """
        for subscription in subscriptions:
            if subscription.expression_type == "TAG":
                continue
            try:
                route = await self.routes.get(subscription.topic)
                for broker_name in {broker.broker_name for broker in route.broker_datas}:
                    address = self.routes.any_address(broker_name)
                    if address is not None:
                        await self.broker.check_client_config(address, group, self.client_id, subscription)
            except (RemotingError, RouteNotFoundError) as error:
                logger.warning("group %s: the filter of topic %s was not checked: %s", group, subscription.topic, error)

    async def introduce(self, addresses: Iterable[str], timeout_s: float) -> None:
        """Sends a heartbeat to those of the brokers that had none over their connection of now; never raises."""
        connections = self.remoting.connections
        strangers = [
            address
            for address in addresses
            if (connection := connections.get(address)) is None or _INTRODUCED not in connection.attachments
        ]
        if strangers:
            data = self._heartbeat_data()
            beats = [asyncio.ensure_future(self.heartbeat_to(address, data)) for address in strangers]
            _, late = await asyncio.wait(beats, timeout=timeout_s)
            for beat in late:
                beat.cancel()

    async def _beat(self) -> float:
        """A heartbeat; the seconds until the next one, which comes sooner after failures."""
        self._unanswered = 0 if await self.heartbeat() else self._unanswered + 1
        await asyncio.sleep(MIN_HEARTBEAT_INTERVAL_S)
        interval_s = self.config.heartbeat_broker_interval_s
        return min(interval_s, 0.5 * 2 ** min(self._unanswered, 10)) if self._unanswered else interval_s

    def _connection_closed(self, address: str) -> None:
        # A broker forgets the members behind a connection that closed: introduce ourselves as soon as it is back.
        logger.info("%s: connection to %s closed", self.client_id, address)
        if any(address in by_id.values() for by_id in self.routes.brokers.values()):
            self.heartbeat_soon()

    async def _poll_routes(self) -> None:
        await self.routes.refresh_all()

    # --- requests of brokers -------------------------------------------------------------------------------------

    def _consumer_ids_changed(self, _connection: Connection, command: RemotingCommand) -> RemotingCommand:
        consumer = self._consumers.get(command.header(ConsumerGroupRequestHeader).consumer_group)
        if consumer is not None:
            consumer.rebalance_now()
        return response(command)

    async def _consumer_request(self, _connection: Connection, command: RemotingCommand) -> RemotingCommand | None:
        header = command.header(ConsumerRequestHeader)
        group = header.consumer_group or header.group
        consumer = self._consumers.get(group)
        if consumer is None:
            return response(command, ResponseCode.SYSTEM_ERROR, remark=f"no consumer of group {group!r} in this client")
        return await consumer.handle_request(command)


def clients_of(loop: asyncio.AbstractEventLoop) -> list[MQClientInstance]:
    """The clients that were started in an event loop and still exist."""
    return [owner for owner in forking.tracked() if isinstance(owner, MQClientInstance) and owner.loop is loop]


def check_group(group: str, kind: str) -> None:
    """Raises ConfigError for a group name that brokers would refuse, or that is a reserved default."""
    problem = group_name_error(group)
    if problem is None and group in ("DEFAULT_PRODUCER", "DEFAULT_CONSUMER"):
        problem = f"the name {group} is reserved"
    if problem is not None:
        raise ConfigError(f"{kind} group: {problem}")


def client_config(
    namesrv_addr: str | None, config: ClientConfig | None, changes: Mapping[str, Any], owner: type
) -> ClientConfig:
    """The configuration of a client: ``config`` or what the environment says, with single settings on top.

    Args:
        owner: the client's class, for the error about an unknown setting.

    Raises:
        ConfigError: an unknown setting, a value of another type or out of its range, or an environment variable that
            cannot be parsed.
    """
    given = {name: value for name, value in changes.items() if value is not None}
    if config is not None and not isinstance(config, ClientConfig):
        raise ConfigError(f"config={config!r:.80} is no ClientConfig")
    if namesrv_addr:
        given["namesrv_addr"] = namesrv_addr
    check_settings(ClientConfig, given, owner)
    config = from_env(ClientConfig, **given) if config is None else dataclasses.replace(config, **given)
    config.check()
    return config


async def _local_ip(address: str) -> str:
    """The address of this machine that packets to ``host:port`` leave from; 127.0.0.1 when there is no way there."""
    host, _, port = address.rpartition(":")
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_DGRAM)
        for family, kind, protocol, _name, target in found:
            with socket.socket(family, kind, protocol) as probe:
                probe.connect(target)  # sends nothing: a datagram socket only looks the way up
                return str(probe.getsockname()[0]).partition("%")[0]
    except OSError as error:
        logger.debug("no way to %s: %s", address, error)
    return "127.0.0.1"
