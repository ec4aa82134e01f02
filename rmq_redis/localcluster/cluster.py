"""A whole cluster as processes of this machine: a Redis server, NameServers, broker groups. For up, demo and bench."""

from __future__ import annotations

import asyncio
import string
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import tenacity

from ..background import Every
from ..child_guard import DRAIN_S
from ..config import VIP_PORT_DISTANCE, env_name
from ..errors import ConfigError, RmqError
from ..remoting.client import RemotingClient
from ..store.embedded import EmbeddedServer
from .addresses import own_address, port_is_free
from .child import Child, ChildError, has_ended
from .data_dir_lock import DataDirLock
from .readiness import Readiness

_PORTS_PER_GROUP = 10
"""A master, up to 7 slaves, and the VIP port two below the next master."""
_READY_TIMEOUT_S = 30.0
"""Far above the lease and the registration of a broker at its start, also on a busy machine."""
_MISSING_REPORT_S = 5.0
"""A cluster is usually ready sooner, without a line about what is missing."""
_CHECK_PERIOD_S = 0.02
"""A start of about 1 s is not prolonged noticeably."""
_WATCH_PERIOD_S = 0.5
"""Errors in logs are read by people."""
_RESTART_PAUSE_S = 1.0
"""A process that dies at once does not occupy a CPU with its starts."""
_MOST_RESTART_PAUSE_S = 10.0
"""The longest wait after the cause has been removed."""
_STOP_TIMEOUT_S = 15.0
_EARLIER_RUN_S = DRAIN_S + 10.0
_LOOK_TIMEOUT_S = 2.0
"""A paused process must not use up ``_READY_TIMEOUT_S`` alone."""


@dataclass(frozen=True, kw_only=True)
class ClusterSpec:
    """What to start. A port of 0 lets the system choose; the others of its kind follow the first.

    Attributes:
        broker_port: None means ``default_broker_port`` or, where that is taken, whatever is free.
        advertised_host: address published to clients; "": ``host``, or this machine's address when that is 0.0.0.0.
        store: Redis URL of the stores and the registry; "" starts the embedded server under ``data_dir``.
        group_stores: Redis URLs of the groups' stores, in turn; empty: all of them are on ``store``.
        restart: roles whose processes are started again when they die.
    """

    data_dir: Path
    namesrvs: int = 2
    namesrv_port: int = 0
    brokers: int = 2
    slaves: int = 1
    broker_port: int | None = 0
    default_broker_port: int = 10911
    host: str = "127.0.0.1"
    advertised_host: str = ""
    store: str = ""
    group_stores: Sequence[str] = ()
    log_level: str = "info"
    restart: Collection[str] = ("store", "namesrv", "broker")


class Role(Child):
    """A NameServer or broker process.

    Attributes:
        role: "namesrv" or "broker".
        label: name for people: ``broker-a slave 1``.
        port: where it listens; once it is known, a restart uses it again.
    """

    def __init__(self, role: str, label: str, log_path: Path, options: list[str], host: str, port: int) -> None:
        super().__init__(label.replace(" ", "-"), log_path)
        self.role = role
        self.label = label
        self.options = options
        self.host = host
        self.port = port
        self.broker_name = ""
        """Its group; "" for a NameServer."""
        self.port_flag = "--namesrv-port" if role == "namesrv" else "--broker-port"
        """The option that fixes its port; "": the port is a default, and any other will do."""
        self.given_up = False
        """It died and nobody starts it again."""

    @property
    def address(self) -> str:
        return f"{self.host}:{self.port}"

    async def launch(self, others: Collection[Role] = ()) -> None:
        """Starts it and waits until it serves. Raises ChildError.

        Args:
            others: roles whose ports it must not take for its VIP channel, which is two below its own.
        """
        options = [*self.options, "--listen-port", str(self.port)]
        if self.role == "broker" and self.port and self.port - VIP_PORT_DISTANCE in {role.port for role in others}:
            options += ["--fast-listen-port", "0"]
        await self.start("rmq_redis", self.role, *options)
        self.port = await self.listening_port()


class Cluster:
    """Starts, watches and stops the processes of a ``ClusterSpec``. Use it as an async context manager.

    It must be used in the main thread: on Linux its processes die with the thread that started them.

    Args:
        report: gets a line for people whenever something starts or dies.

    Attributes:
        namesrvs, brokers: the processes, once started.
        store_url: Redis URL of the stores.
    """

    def __init__(self, spec: ClusterSpec, report: Callable[[str], None] = lambda line: None) -> None:
        self.spec = spec
        self.report = report
        self.namesrvs: list[Role] = []
        self.brokers: list[Role] = []
        self.store_url = spec.store
        self.embedded: EmbeddedServer | None = None
        self._data_lock = DataDirLock(spec.data_dir)
        self._tasks: list[asyncio.Task[None]] = []
        self._watching = Every(_WATCH_PERIOD_S, self._watch_logs_and_store, "cluster: watching logs and store")
        self._wildcard = spec.host in ("0.0.0.0", "::", "")
        self._connect_host = spec.advertised_host or (own_address() if self._wildcard else spec.host)

    @property
    def namesrv_addr(self) -> str:
        """The NameServers: ``host:port;host:port``."""
        return ";".join(role.address for role in self.namesrvs)

    @property
    def _roles(self) -> list[Role]:
        return [*self.namesrvs, *self.brokers]

    @property
    def log_dir(self) -> Path:
        return self.spec.data_dir / "logs"

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.stop()

    # --- start -------------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Starts everything and returns when the cluster takes messages. What was started is stopped on an error.

        Raises:
            ConfigError: a port or the data directory is in use; no Redis server to start.
            StoreError: the embedded server did not start.
            ChildError: a NameServer or broker did not start.
        """
        try:
            await self._start()
        except BaseException:
            await self.stop()
            raise

    async def _start(self) -> None:
        spec = self.spec
        await self._data_lock.take(_EARLIER_RUN_S)
        namesrv_ports = self._ports(
            spec.namesrv_port, [spec.namesrv_port + i for i in range(spec.namesrvs)], "--namesrv-port"
        )
        ids = [(group, broker_id) for group in range(spec.brokers) for broker_id in range(spec.slaves + 1)]
        broker_ports = self._broker_ports(ids)
        self._start_store()
        self.namesrvs = [
            self._role("namesrv", f"namesrv-{i + 1}", [], port, registry=self.store_url)
            for i, port in enumerate(namesrv_ports)
        ]
        await self._launch(self.namesrvs)
        for (group, broker_id), port in zip(ids, broker_ports, strict=True):
            name = _broker_name(group)
            stores = spec.group_stores or (self.store_url,)
            options = ["--broker-name", name, "--broker-id", str(broker_id)]
            options += ["--namesrv-addr", self.namesrv_addr, "--advertised-host", self._connect_host]
            store = stores[group % len(stores)]
            role = self._role("broker", _broker_label(group, broker_id), options, port, store=store)
            role.broker_name = name
            if spec.broker_port is None:
                role.port_flag = ""
            self.brokers.append(role)
        await self._launch(self.brokers)
        self._watching.start()
        await self.wait_ready()

    def _role(self, role: str, label: str, options: list[str], port: int, **settings: str) -> Role:
        """``settings`` may hold passwords, so they go into the environment."""
        options = [*options, "--listen-host", self.spec.host, "--log-level", self.spec.log_level]
        log_path = self.log_dir / f"{label.replace(' ', '-')}.log"
        made = Role(role, label, log_path, options, self._connect_host, port)
        made.inherited_fds = self._data_lock.inherited_fds
        made.environ = {env_name(name): value for name, value in settings.items()}
        return made

    async def _launch(self, roles: list[Role]) -> None:
        tasks = [asyncio.create_task(self._launch_one(role)) for role in roles]
        try:
            for role, task in zip(roles, tasks, strict=True):
                await task
                self._report_role(role)
                self._tasks.append(asyncio.create_task(self._watch(role)))
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)

    async def _launch_one(self, role: Role) -> None:
        """Starts a role. Since the check, a cluster that started at the same time may have taken its port."""
        try:
            await role.launch(self._roles)
        except ChildError:
            if port_is_free(self.spec.host, role.port):
                raise
            if role.port_flag:
                raise self._port_in_use(role.port, role.port_flag) from None
            self.report(f"port {role.port} is in use: {role.label} takes another")
            role.port = 0
            await role.launch(self._roles)

    def _port_in_use(self, port: int, flag: str) -> ConfigError:
        return ConfigError(
            f"port {port} on {self.spec.host} is in use; stop what uses it, or give another {flag} (0: any free port)"
        )

    def _report_role(self, role: Role) -> None:
        self.report(process_line(role.label, role.address, role.pid))

    def _ports(self, first: int, ports: list[int], flag: str) -> list[int]:
        if first == 0:
            return [0] * len(ports)
        for port in ports:
            if not port_is_free(self.spec.host, port):
                raise self._port_in_use(port, flag)
        return ports

    def _broker_ports(self, ids: list[tuple[int, int]]) -> list[int]:
        def ports(first: int) -> list[int]:
            return [first + group * _PORTS_PER_GROUP + broker_id for group, broker_id in ids]

        first = self.spec.broker_port
        if first is not None:
            return self._ports(first, ports(first), "--broker-port")
        wanted = ports(self.spec.default_broker_port)
        found = [port if port_is_free(self.spec.host, port) else 0 for port in wanted]
        for (group, broker_id), port, use in zip(ids, wanted, found, strict=True):
            if not use:
                self.report(f"port {port} is in use: {_broker_label(group, broker_id)} takes another")
        return found

    def _start_store(self) -> None:
        if self.store_url:
            return
        directory = self.spec.data_dir / "store"
        self.embedded = EmbeddedServer(directory, inherited_fds=self._data_lock.inherited_fds)
        self.embedded.start()
        self.store_url = self.embedded.url
        self.report(process_line("store", self.store_url, self.embedded.pid))

    # --- ready -------------------------------------------------------------------------------------------------------

    async def wait_ready(self) -> None:
        """Returns when every NameServer shows every broker as it was started now, and no other of their groups.

        NameServers that died and are not started again do not count, as long as one lives.

        Raises:
            ChildError: not within 30 s; the text says what is missing.
        """
        client = RemotingClient(connect_timeout_s=_LOOK_TIMEOUT_S)
        readiness = Readiness(client, owns_registry=self.embedded is not None)
        missing, began = "nothing was asked yet", time.monotonic()
        next_report_s = began + _MISSING_REPORT_S
        try:
            async with asyncio.timeout(_READY_TIMEOUT_S):
                while missing := await readiness.missing(self._alive(self.namesrvs), self._alive(self.brokers)):
                    if time.monotonic() >= next_report_s:
                        self.report(f"not ready after {time.monotonic() - began:.0f} s: {missing}")
                        next_report_s += _MISSING_REPORT_S
                    await asyncio.sleep(_CHECK_PERIOD_S)
        except TimeoutError:
            raise ChildError(f"the cluster is not ready: {missing}; the logs are in {self.log_dir}") from None
        finally:
            await client.close()

    @staticmethod
    def _alive(roles: list[Role]) -> list[Role]:
        return [role for role in roles if not role.given_up]

    # --- watch -------------------------------------------------------------------------------------------------------

    async def _watch(self, role: Role) -> None:
        """Starts a process again whenever it dies, if its role is one of ``spec.restart``."""
        while True:
            await role.wait()
            died = f"{role.label} (pid {role.pid}) has ended ({role.ended_how()})"
            if role.role not in self.spec.restart:
                self.report(f"{died}; the others continue")
            else:
                self.report(f"{died}; restarting it")
                await self._restart(role)
                self._report_role(role)
                continue
            role.given_up = True
            return

    async def _restart(self, role: Role) -> None:
        def report(state: tenacity.RetryCallState) -> None:
            error = state.outcome and state.outcome.exception()
            self.report(f"{error}; trying again in {state.upcoming_sleep:g} s")

        await asyncio.sleep(_RESTART_PAUSE_S)
        policy = tenacity.AsyncRetrying(
            retry=tenacity.retry_if_exception_type(ChildError),
            wait=tenacity.wait_exponential(2 * _RESTART_PAUSE_S, max=_MOST_RESTART_PAUSE_S),
            before_sleep=report,
            sleep=asyncio.sleep,
        )
        await policy(role.launch, self._roles)

    async def _watch_logs_and_store(self) -> None:
        for role in (*self.namesrvs, *self.brokers):
            for line in role.new_log_lines():
                if " ERROR " in line or " CRITICAL " in line:
                    self.report(f"{role.label}: {line}")
        store = self.embedded
        if store is not None and store.pid and has_ended(store.pid) and "store" in self.spec.restart:
            self.report(f"store (pid {store.pid}) has ended; restarting it")
            store.kill()  # takes note of its end
            try:
                self.embedded = None
                store.start()
            except RmqError as error:
                self.report(f"store: {error}")
                return
            self.embedded = store
            self.report(process_line("store", store.url, store.pid))

    # --- stop --------------------------------------------------------------------------------------------------------

    async def stop(self) -> None:
        """Stops brokers, NameServers and the store, in this order. A second call does nothing."""
        await self._watching.close()
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        self._tasks.clear()
        for roles in (self.brokers, self.namesrvs):
            stopped = await asyncio.gather(*(role.stop(_STOP_TIMEOUT_S) for role in roles))
            for role, by_itself in zip(roles, stopped, strict=True):
                if not by_itself:
                    self.report(f"{role.label} (pid {role.pid}) did not stop in {_STOP_TIMEOUT_S:g} s and was killed")
        if self.embedded is not None:
            store, self.embedded = self.embedded, None
            await asyncio.to_thread(store.stop)
        self._data_lock.release()

    def kill(self) -> None:
        """kill -9 for NameServers and brokers: whoever asked is in a hurry. ``stop`` is still to be called."""
        for role in (*self.brokers, *self.namesrvs):
            role.kill()


def _broker_name(group: int) -> str:
    return f"broker-{string.ascii_lowercase[group]}"


def _broker_label(group: int, broker_id: int) -> str:
    return f"{_broker_name(group)} {f'slave {broker_id}' if broker_id else 'master'}"


def process_line(label: str, address: str, pid: int) -> str:
    """One process in the output of up and demo."""
    return f"{label:<17} {address:<28} pid {pid}"
