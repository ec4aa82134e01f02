"""Builds everything that a broker consists of, once its address is known."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

from ..config import BrokerConfig
from ..remoting.dispatch import Processor, processors_of
from ..remoting.server import RemotingServer
from ..store.group.config import ConfigStore
from ..store.group.give_backs import GiveBackStore
from ..store.group.half_messages import HalfStore
from ..store.group.locks import LockStore
from ..store.group.offsets import OffsetStore
from ..store.group.pop import PopStore
from ..store.group.pop_order import PopOrderStore
from ..store.group.queues import QueueStore
from ..store.group.schedule import ScheduleStore
from ..store.group.session import StoreSettings
from ..store.keys import GroupKeys
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
from .group.auto_creation import AutoCreation
from .group.clients import ClientManager
from .group.duties import Duties, MasterService
from .group.leadership import Leadership
from .group.queue_locks import QueueLockProcessor
from .group.redelivery import GiveBacks
from .group.registration import Registration
from .group.retention import RetentionService
from .group.retry_notice import RetryNotice
from .group.schedule import ScheduleService
from .group.state import GroupState
from .group.topics import TopicTable
from .hooks import Hooks
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
from .signals import Signals
from .statistics import BrokerStatistics


@dataclass(frozen=True, kw_only=True)
class Parts:
    """What a broker consists of.

    Attributes:
        processors: the handler of each request code.
    """

    state: GroupState
    statistics: BrokerStatistics
    clients: ClientManager
    pulls: PullProcessor
    pop_hold: PopHold
    retry_notice: RetryNotice
    retention: RetentionService
    registration: Registration
    duties: Duties
    leadership: Leadership
    sampler: RateSampler
    processors: dict[int, Processor]


def open_state(config: BrokerConfig, office: Office, signals: Signals, address: str) -> GroupState:
    """The state of a group, empty until it is read. Raises ConfigError if the store is not a Redis URL."""
    queue_store = QueueStore(
        StoreSettings(
            url=config.store,
            reads_only=True,
            replica_url=config.store_replica,
            replicas=config.in_sync_replicas if config.broker_role == "SYNC_MASTER" else 0,
            flush=config.flush_disk_type == "SYNC_FLUSH",
            confirm_timeout_s=config.sync_timeout_s,
            max_wait_s=config.wait_time_in_send_queue_s,
            busy_s=config.store_busy_timeout_s,
        ),
        GroupKeys(config.key_prefix, config.broker_name),
        on_new_records=signals.new_records,
        on_fenced=office.fence,
        on_reloaded=signals.store_reloaded,
    )
    offsets = OffsetStore(queue_store, config.offset_flush_period_s)
    configs = ConfigStore(queue_store)
    topics = TopicTable(config, office, configs, queue_store, offsets, signals.topics_changed, signals.queue_gone)
    return GroupState(
        config=config,
        office=office,
        address=address,
        queue_store=queue_store,
        offsets=offsets,
        batches=PopOrderStore(queue_store, offsets),
        configs=configs,
        topics=topics,
        auto_creation=AutoCreation(config, office, topics),
        locks=LockStore(queue_store, config.lock_expiry_s),
    )


class _Assembly:
    """Builds each part once, when another part first needs it."""

    def __init__(self, state: GroupState, signals: Signals, server: RemotingServer, hooks: Hooks) -> None:
        self._state = state
        self._signals = signals
        self._server = server
        self._hooks = hooks
        self._drops = OnewayDrops()
        self.pop_hold = PopHold(state.config.max_held_pulls)

    # --- the group -------------------------------------------------------------------------------------------------

    @cached_property
    def clients(self) -> ClientManager:
        return ClientManager(self._state, self._signals.expression_changed)

    @cached_property
    def statistics(self) -> BrokerStatistics:
        return BrokerStatistics(self._state.config.cluster_name, self._state.topics, self._state.queue_store)

    @cached_property
    def retention(self) -> RetentionService:
        return RetentionService(self._state.config, self._state.topics, self._state.queue_store)

    @cached_property
    def registration(self) -> Registration:
        return Registration(self._state)

    @cached_property
    def duties(self) -> Duties:
        services: list[MasterService] = [self._schedule, self._transactions, self._revive, self._order, self.retention]
        return Duties(self._state, self.pulls, services, self.registration, self._server)

    @cached_property
    def _schedule_store(self) -> ScheduleStore:
        return ScheduleStore(self._state.queue_store)

    @cached_property
    def _schedule(self) -> ScheduleService:
        return ScheduleService(self._schedule_store, self._state.topics, self._state.auto_creation)

    @cached_property
    def _give_backs(self) -> GiveBacks:
        return GiveBacks(GiveBackStore(self._state.queue_store, self._schedule_store), self._schedule)

    # --- producers -------------------------------------------------------------------------------------------------

    @cached_property
    def _transactions(self) -> TransactionService:
        return TransactionService(self._state, HalfStore(self._state.queue_store), self.clients)

    @cached_property
    def _sends(self) -> SendProcessor:
        return SendProcessor(
            self._state, self._schedule, self._transactions, self._drops, self._give_backs, self._hooks.append
        )

    # --- consumers -------------------------------------------------------------------------------------------------

    @cached_property
    def pulls(self) -> PullProcessor:
        return PullProcessor(self._state, self.clients, self.statistics, self._hooks.delivery)

    @cached_property
    def _pop_store(self) -> PopStore:
        return PopStore(self._state.queue_store)

    @cached_property
    def _revive(self) -> PopReviveService:
        return PopReviveService(self._state, self._pop_store)

    @cached_property
    def _order(self) -> PopOrder:
        return PopOrder(self._state, self.pop_hold, self._revive.hidden_until)

    def _consumer_processors(self) -> list[Any]:
        state, statistics = self._state, self.statistics
        return [
            self.pulls,
            SendBackProcessor(state, self._give_backs, statistics),
            AssignmentProcessor(state, self.clients, self.registration.topic_route),
            PopProcessor(
                state, self._pop_store, self._revive, self._order, self.pop_hold, statistics, self._hooks.delivery
            ),
            PopAckProcessor(state, self._pop_store, self._revive, self._order, statistics),
        ]

    # --- tools -----------------------------------------------------------------------------------------------------

    @cached_property
    def runtime_info(self) -> RuntimeInfoProcessor:
        return RuntimeInfoProcessor(
            self._state,
            self.pulls,
            self.retention,
            self.statistics,
            self._drops,
            lambda: self.registration.registered_namesrvs,
            self._server,
        )

    def _tools(self) -> list[Any]:
        """Processors for tools: they read or change state, on masters and slaves."""
        state, statistics = self._state, self.statistics
        return [
            QueryProcessor(state),
            OffsetProcessor(state),
            ConsumerAdminProcessor(state, self.clients, self.pulls),
            AdminProcessor(state, self.clients, self.retention, statistics),
            ProgressProcessor(state, self.clients, self.retention, statistics),
            self.runtime_info,
            StatisticsProcessor(state, statistics),
        ]

    def processors(self) -> dict[int, Processor]:
        return processors_of(
            self._sends,
            self._transactions,
            RecallProcessor(self._state, self._schedule),
            ReplyProcessor(self._state, self.clients),
            *self._consumer_processors(),
            self.clients,
            QueueLockProcessor(self._state),
            *self._tools(),
        )


def assemble(state: GroupState, signals: Signals, server: RemotingServer, hooks: Hooks) -> Parts:
    """Builds the parts and connects them. Nothing runs yet."""
    made = _Assembly(state, signals, server, hooks)
    parts = Parts(
        state=state,
        statistics=made.statistics,
        clients=made.clients,
        pulls=made.pulls,
        pop_hold=made.pop_hold,
        retry_notice=RetryNotice(made.clients, state.offsets),
        retention=made.retention,
        registration=made.registration,
        duties=made.duties,
        leadership=Leadership(state, made.duties),
        sampler=made.runtime_info.sampler,
        processors=made.processors(),
    )
    signals.connect(parts)
    state.office.on_change(made.pop_hold.wake_all)
    return parts
