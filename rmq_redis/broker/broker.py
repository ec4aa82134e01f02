"""Broker: start, serve, close. Wires the processors to the store and to the NameServers."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from typing import Any, Protocol

from ..config import BrokerConfig, parse_addresses
from ..errors import ConfigError, StoreError, StoreFencedError, StoreRefusedError
from ..hosts import pack_host
from ..model import MASTER_ID, TopicRouteData, topic_name_error
from ..protocol.body import TopicConfigTable
from ..protocol.frame import MAX_FRAME_BYTES
from ..protocol.message import UniqKeyGenerator
from ..remoting.connection import Connection
from ..remoting.plugins import ServerPlugins
from ..remoting.server import RemotingServer, processors_of
from ..store.group.config import ConfigStore
from ..store.group.give_backs import GiveBackStore
from ..store.group.half_messages import HalfStore
from ..store.group.locks import LockStore
from ..store.group.offsets import OffsetStore
from ..store.group.pop import PopStore
from ..store.group.pop_order import PopOrderStore
from ..store.group.queue import Queue
from ..store.group.queues import QueueStore
from ..store.group.schedule import ScheduleStore
from ..store.keys import GroupKeys
from ..store.redis.connection import StoreConnection
from ..store.redis.server_info import durability_warnings
from .admin.consumers import ConsumerAdminProcessor
from .admin.messages import QueryProcessor
from .admin.offsets import OffsetProcessor
from .admin.runtime_info import RuntimeInfoProcessor
from .admin.stats import StatisticsProcessor
from .admin.topics_and_groups import AdminProcessor
from .consume.assignment import AssignmentProcessor
from .consume.progress import ProgressProcessor
from .consume.pull import PullProcessor
from .consume.send_back import SendBackProcessor
from .group.clients import ClientManager
from .group.leadership import Leadership
from .group.redelivery import GiveBacks
from .group.registration import Registration
from .group.retention import RetentionService, check_settings
from .group.retry_notice import RetryNotice
from .group.schedule import ScheduleService
from .group.topics import MAX_QUEUE_NUMS, TopicTable
from .interceptors import BrokerInterceptors
from .office import Office
from .pop.ack import PopAckProcessor
from .pop.hold import PopHold
from .pop.order import PopOrder
from .pop.processor import PopProcessor
from .pop.revive import PopReviveService
from .produce.oneway import OnewayDrops
from .produce.recall import RecallProcessor
from .produce.reply import ReplyProcessor
from .produce.send import SendProcessor
from .produce.transaction import TransactionService
from .rates import RateSampler
from .request_bounds import refusal
from .statistics import BrokerStatistics
from .vip_channel import listen_on_vip_channel

logger = logging.getLogger(__name__)

_SLAVE_RELOAD_PERIOD_S = 1.0
_REGISTER_WAIT_S = 2.0
_STORE_RETRY_S = 1.0


class MasterService(Protocol):
    """What runs in the background while this broker is the group's master; may be started again."""

    def start(self) -> None: ...

    async def close(self) -> None: ...


class Broker:
    """One broker process's worth of broker, on the running event loop.

    Attributes:
        port: where it listens, once started.
        fast_port: where it also listens for the VIP channel of old Java clients; 0: nowhere.
        address: ``ip:port`` that it registers and that is part of message ids.
    """

    def __init__(self, config: BrokerConfig) -> None:
        if not config.store:
            raise ConfigError("a broker needs a store: --store redis://host:port/db (or RMQ_REDIS_STORE)")
        if topic_name_error(config.broker_name) or topic_name_error(config.cluster_name):
            raise ConfigError(
                f"broker name {config.broker_name!r} and cluster name {config.cluster_name!r} may only have letters, "
                "digits and the characters _ - % |"
            )
        for name in ("max_message_bytes", "max_pull_bytes"):
            if not 0 < getattr(config, name) <= MAX_FRAME_BYTES // 2:
                raise ConfigError(f"{name} is {getattr(config, name)}; 1 to {MAX_FRAME_BYTES // 2} fit into a frame")
        if config.broker_role not in ("ASYNC_MASTER", "SYNC_MASTER"):
            raise ConfigError(f"broker_role is {config.broker_role!r}, expected ASYNC_MASTER or SYNC_MASTER")
        if config.flush_disk_type not in ("ASYNC_FLUSH", "SYNC_FLUSH"):
            raise ConfigError(f"flush_disk_type is {config.flush_disk_type!r}, expected ASYNC_FLUSH or SYNC_FLUSH")
        if config.in_sync_replicas < 1:
            raise ConfigError(f"in_sync_replicas is {config.in_sync_replicas}, it must be at least 1")
        is_sync = config.broker_role == "SYNC_MASTER" or config.flush_disk_type == "SYNC_FLUSH"
        if is_sync and not 0 < config.sync_timeout_s < config.lease_s:
            raise ConfigError(
                f"sync_timeout_s is {config.sync_timeout_s:g}; it must be above 0 and below lease_s "
                f"({config.lease_s:g}), or a slow replica would cost the lease"
            )
        check_settings(config)
        for name in ("wait_time_in_send_queue_s", "store_busy_timeout_s"):
            if getattr(config, name) <= 0:
                raise ConfigError(f"{name} is {getattr(config, name):g}; expected more than 0")
        if not 0 < config.default_topic_queue_nums <= MAX_QUEUE_NUMS:
            raise ConfigError(
                f"default_topic_queue_nums is {config.default_topic_queue_nums}; expected 1 to {MAX_QUEUE_NUMS}"
            )
        if config.broker_id < 0:
            raise ConfigError(f"broker id {config.broker_id} is negative; 0 is the master, 1 and up are slaves")
        self.config = config
        self.port = 0
        self.fast_port = 0
        self.address = ""
        self._namesrv_addrs = parse_addresses(config.namesrv_addr)
        self._follow: list[asyncio.Task[None]] = []
        self._office = Office(config)
        self._queue_store = QueueStore(
            config.store,
            GroupKeys(config.key_prefix, config.broker_name),
            on_new_records=self._new_records,
            on_fenced=self._office.fence,
            on_reloaded=self._store_reloaded,
            reads_only=True,
            replica_url=config.store_replica,
            replicas=config.in_sync_replicas if config.broker_role == "SYNC_MASTER" else 0,
            flush=config.flush_disk_type == "SYNC_FLUSH",
            confirm_timeout_s=config.sync_timeout_s,
            max_wait_s=config.wait_time_in_send_queue_s,
            busy_s=config.store_busy_timeout_s,
        )
        self._offsets = OffsetStore(self._queue_store, config.offset_flush_period_s)
        self._batches = PopOrderStore(self._queue_store, self._offsets)
        self._configs = configs = ConfigStore(self._queue_store)
        self._topics = TopicTable(
            config,
            self._office,
            configs,
            self._queue_store,
            self._offsets,
            self._topics_changed,
            self._queue_gone,
        )
        self._locks = LockStore(self._queue_store, config.lock_expiry_s)
        self._clients = ClientManager(config, self._office, self._topics, self._locks, self._expression_changed)
        self._drops = OnewayDrops()
        self._statistics = BrokerStatistics(config.cluster_name, self._topics, self._queue_store)
        self._pulls = PullProcessor(
            config,
            self._office,
            self._topics,
            self._queue_store,
            self._offsets,
            self._clients,
            self._statistics,
        )
        self._retry_notice = RetryNotice(self._clients, self._offsets)
        self._server = RemotingServer(
            None,
            on_close=self._connection_closed,
            idle_timeout_s=config.idle_timeout_s,
            max_connections=config.max_connections,
            max_inbound_bytes=config.max_inbound_bytes,
            refusal=refusal,
        )
        self._leadership: Leadership | None = None
        self._master_services: tuple[MasterService, ...] = ()
        self._registration: Registration | None = None
        self._sends: SendProcessor | None = None
        self._send_backs: SendBackProcessor | None = None
        self._recalls: RecallProcessor | None = None
        self._pops: PopProcessor | None = None
        self._schedule: ScheduleService | None = None
        self._transactions: TransactionService | None = None
        self._sampler: RateSampler | None = None
        self._plugins = ServerPlugins("broker", config.broker_name, config)
        self._interceptors = BrokerInterceptors(config)
        self._retention = RetentionService(config, self._topics, self._queue_store)

    @property
    def broker_id(self) -> int:
        """The id now: 0 for the group's master."""
        return self._office.broker_id

    async def start(self) -> None:
        """Waits for the store, listens, takes the group over (a master, if no other has it), and begins to register.

        Raises:
            StoreError: the store refused something: a wrong password, a missing right.
            ConfigError: the port is taken, or the address to advertise cannot be found.
        """
        config, office = self.config, self._office
        await self._wait_for_store()
        # The address is part of every record, so the port must be known before the first send is taken.
        server = self._server
        await server.start(config.listen_host, config.listen_port)
        self.port = server.port
        self.fast_port = await listen_on_vip_channel(server, config)
        host = config.advertised_host or _own_ip(self._namesrv_addrs[0])
        self.address = f"{host}:{config.advertised_port or self.port}"
        store_host = pack_host(self.address)
        schedule_store = ScheduleStore(self._queue_store)
        self._schedule = schedule = ScheduleService(schedule_store, self._topics)
        give_backs = GiveBacks(GiveBackStore(self._queue_store, schedule_store), schedule)
        self._transactions = transactions = TransactionService(
            config, office, HalfStore(self._queue_store), self._topics, self._queue_store, self._clients, self.address
        )
        self._sends = SendProcessor(
            config,
            office,
            self._topics,
            self._queue_store,
            UniqKeyGenerator(store_host[:-4], os.getpid(), os.urandom(4)),
            store_host,
            schedule,
            transactions,
            self._drops,
            give_backs,
        )
        self._send_backs = SendBackProcessor(
            office, self._topics, self._queue_store, give_backs, store_host, self._statistics
        )
        self._recalls = RecallProcessor(config, office, self._topics, schedule)
        replies = ReplyProcessor(config, office, self._topics, self._queue_store, self._clients, self.address)
        pop_store = PopStore(self._queue_store)
        revive = PopReviveService(pop_store, self._topics, self._queue_store, store_host)
        pop_hold = PopHold(config.max_held_pulls)
        order = PopOrder(
            config, self._topics, self._queue_store, self._batches, pop_hold, store_host, revive.hidden_until
        )
        self._pops = PopProcessor(
            config,
            office,
            self._topics,
            self._queue_store,
            self._offsets,
            pop_store,
            revive,
            order,
            pop_hold,
            self._statistics,
        )
        acks = PopAckProcessor(office, self._topics, pop_store, revive, order, self._statistics)
        assignments = AssignmentProcessor(office, self._topics, self._configs, self._clients, self._topic_route)
        self._master_services = (schedule, transactions, revive, order, self._retention)
        office.on_change(pop_hold.wake_all)
        processors = processors_of(
            self._sends,
            self._send_backs,
            self._recalls,
            transactions,
            replies,
            self._pulls,
            self._pops,
            acks,
            assignments,
            self._clients,
            *self._tool_processors(),
        )
        self._pulls.hold.start()
        self._clients.start()
        self._leadership = leadership = Leadership(
            config,
            office,
            self._queue_store,
            self.address,
            promote=self._become_master,
            demote=self._become_slave,
            moved=self._topics_changed,
            restore=self._restore_store,
            check=self._check_store,
        )
        await leadership.start()
        if office.broker_id != MASTER_ID:
            await self._topics.start()
            await self._offsets.load()
            self._start_following()
        self._interceptors.attach(self._sends, self._pulls, self._pops)
        server.set_processors(self._plugins.wrap(self._interceptors.wrap(processors)))
        self._registration = Registration(config, office, self._namesrv_addrs, self.address, self._topic_table)
        self._registration.start()
        await self._registration.register_now(_REGISTER_WAIT_S)  # who sees the broker start may ask for routes at once
        self._plugins.start(lambda: {**server.figures(), "messages_delivered_total": self._statistics.gets.nums})
        logger.info(
            "broker %s id %d: serving at %s, epoch %d",
            config.broker_name,
            self.broker_id,
            self.address,
            self._queue_store.epoch,
        )

    def _tool_processors(self) -> list[Any]:
        """The processors that read state, or change it for an operator, at masters and slaves."""
        config, topics, store, offsets = self.config, self._topics, self._queue_store, self._offsets
        office = self._office
        clients, retention, statistics = self._clients, self._retention, self._statistics
        runtime_info = RuntimeInfoProcessor(
            config,
            office,
            topics,
            store,
            self._pulls,
            retention,
            statistics,
            self._drops,
            self._registered_namesrvs,
            self._server,
        )
        self._sampler = runtime_info.sampler
        self._sampler.start()
        return [
            QueryProcessor(office, topics, store),
            OffsetProcessor(config, office, topics, store, offsets),
            ConsumerAdminProcessor(config, office, topics, store, offsets, clients, self._pulls),
            AdminProcessor(config, office, self.address, topics, store, offsets, clients, retention, statistics),
            ProgressProcessor(self.address, office, topics, store, offsets, clients, retention, statistics),
            runtime_info,
            StatisticsProcessor(office, store, statistics),
        ]

    async def _wait_for_store(self) -> None:
        """Connects to the store; one that is not up yet is logged once a second. Raises StoreRefusedError."""
        while True:
            try:
                return await self._queue_store.start()
            except StoreRefusedError:
                raise
            except StoreError as error:
                logger.warning("broker %s: waits for its store: %s", self.config.broker_name, error)
                await self._queue_store.close()
                await asyncio.sleep(_STORE_RETRY_S)

    # --- roles -----------------------------------------------------------------------------------------------------

    async def _become_master(self) -> None:
        """The lease is ours: loads what the store has, and takes writes."""
        self._stop_following()
        try:
            await self._queue_store.read_from(replica=False)
            await self._topics.start()
            await self._queue_store.load_ends()
            await self._offsets.load()
            await self._queue_store.go_on_behind(self._offsets.ends())
            await self._batches.load()
            await self._locks.load()
            self._queue_store.lead()
        except StoreError:
            self._start_following()
            raise
        for service in self._master_services:
            service.start()
        self._office.lead()
        self._pulls.wake_behind()
        await self._topics_changed()
        await self._warn_of_losses()

    async def _warn_of_losses(self) -> None:
        try:
            warnings = await durability_warnings(self._queue_store.current())
        except StoreError as error:
            warnings = [f"whether it can lose messages is unknown, INFO is needed for that: {error}"]
        for warning in warnings:
            logger.warning("broker %s: the store: %s", self.config.broker_name, warning)

    async def _restore_store(self) -> None:
        """The store has lost what it had, and the lease is ours once more: writes again what this process knows."""
        await self._topics.put_again(self._queue_store.current())
        await self._queue_store.load_ends()
        await self._offsets.write_all()
        await self._locks.write_all()
        await self._batches.load()
        self._office.lead()
        self._pulls.wake_behind()
        await self._topics_changed()

    async def _check_store(self) -> None:
        await self._topics.check()
        await self._offsets.write_what_is_missing()

    async def _become_slave(self) -> None:
        """Another process is the master now. Clients are disconnected, so that they ask for the route again."""
        for service in self._master_services:
            await service.close()
        self._offsets.abandon()
        try:
            await self._queue_store.read_from(replica=True)
        except StoreError as error:
            logger.info("broker %s: goes on reading from the primary: %s", self.config.broker_name, error)
        self._start_following()
        await self._topics_changed()
        self._server.close_connections()

    def _start_following(self) -> None:
        loop = asyncio.get_running_loop()
        self._follow = [loop.create_task(self._follow_topics()), loop.create_task(self._follow_queues())]

    def _stop_following(self) -> None:
        for task in self._follow:
            task.cancel()
        self._follow = []

    def _topic_table(self) -> TopicConfigTable:
        return TopicConfigTable(self._topics.configs(), self._topics.data_version)

    async def _topic_route(self, topic: str) -> TopicRouteData | None:
        return None if self._registration is None else await self._registration.topic_route(topic)

    def _registered_namesrvs(self) -> list[str]:
        return [] if self._registration is None else self._registration.registered_namesrvs

    async def _topics_changed(self) -> None:
        if self._registration is not None:
            await self._registration.register_now(_REGISTER_WAIT_S)

    def _new_records(self, queue: Queue, first_offset: int, records: list[bytes]) -> None:
        self._pulls.on_new_records(queue, first_offset, records)
        self._retry_notice.on_new_records(queue)
        if self._pops is not None:
            self._pops.hold.on_new_records(queue)

    def _expression_changed(self, group: str, topic: str) -> None:
        self._pulls.expression_changed(group, topic)
        if self._pops is not None:
            self._pops.hold.expression_changed(group, topic)

    def _connection_closed(self, connection: Connection) -> None:
        self._clients.connection_closed(connection)
        if self._pops is not None:
            self._pops.hold.connection_closed(connection)

    async def _store_reloaded(self, connection: StoreConnection) -> None:
        try:
            if self._office.is_master:
                await self._topics.put_again(connection)
                self._offsets.write_all_soon()
        except StoreFencedError as error:
            logger.debug("broker %s: topics are not written again: %s", self.config.broker_name, error)
        self._pulls.wake_behind()
        if self._pops is not None:
            self._pops.hold.wake_all()

    def _queue_gone(self, queue: Queue) -> None:
        self._batches.forget_queue(queue)
        self._pulls.hold.wake(queue)  # answered now; the next pull hears that the topic is gone

    async def _follow_topics(self) -> None:
        while True:
            await asyncio.sleep(_SLAVE_RELOAD_PERIOD_S)
            try:
                if await self._topics.reload() and self._registration is not None:
                    await self._registration.register_now(_REGISTER_WAIT_S)
                await self._offsets.load_resets()
            except StoreError as error:
                logger.debug("broker %s: topics: %s", self.config.broker_name, error)
            except Exception:  # a mistake of ours must not end the task
                logger.exception("broker %s: following the topics failed", self.config.broker_name)

    async def _follow_queues(self) -> None:
        while True:
            await asyncio.sleep(self.config.slave_poll_period_s)
            try:
                await self._pulls.poll_for_held()
            except StoreError as error:
                logger.debug("broker %s: queues: %s", self.config.broker_name, error)
            except Exception:  # a mistake of ours must not end the task
                logger.exception("broker %s: following the queues failed", self.config.broker_name)

    async def close(self) -> None:
        """Refuses new sends, answers what it accepted, answers the pulls that wait, unregisters, closes."""
        self._plugins.close()
        self._office.stop()
        if self._leadership is not None:
            await self._leadership.stop()
        for service in self._master_services:
            await service.close()
        self._stop_following()
        if self._registration is not None:
            await self._registration.close()
        if not await self._queue_store.wait_until_answered(self.config.stop_timeout_s):
            logger.warning("broker %s: some accepted sends got no answer from the store", self.config.broker_name)
        self._pulls.hold.close()
        self._retry_notice.close()
        self._clients.close()
        if self._sampler is not None:
            self._sampler.close()
        await self._server.close()
        if self._office.is_writing:
            try:
                async with asyncio.timeout(self.config.stop_timeout_s):
                    await self._offsets.close()
            except TimeoutError:
                logger.warning("broker %s: the store does not take the last offsets", self.config.broker_name)
        if self._leadership is not None:
            await self._leadership.release()
        await self._queue_store.close()
        logger.info("broker %s id %d: stopped", self.config.broker_name, self.broker_id)


def _own_ip(peer: str) -> str:
    """The address of this machine that reaches ``host:port``. Raises ConfigError when it cannot be found."""
    host, _, port = peer.rpartition(":")
    try:
        infos = socket.getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_DGRAM)
        family, kind, protocol, _, address = infos[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.connect(address)
            ip: str = probe.getsockname()[0]
            return f"[{ip}]" if ":" in ip else ip
    except OSError as error:
        raise ConfigError(
            f"cannot find the address of this machine that reaches {peer} ({error}); set advertised_host"
        ) from None
