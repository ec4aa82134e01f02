"""What is broken in a run: NameServers, brokers, Redis servers with Sentinels, and proxies before them."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import RedisError

from ...errors import RmqError
from ...localcluster.child import Child, ChildError
from ...localcluster.cluster import Role
from ...store.embedded import EmbeddedServer, SentinelServer
from .proxy import Proxy

SENTINELS = 3
"""The fewest with a majority that outlives one of them."""
DOWN_AFTER_MS = 1000
"""Sentinel's own default of 30 s would dominate each round."""
LEASE_S = 3.0
"""Shorter than the default of 5 s: more takeovers in the same time."""
SYNC_TIMEOUT_S = 1.0
"""A broker requires less than ``LEASE_S``."""
_READY_TIMEOUT_S = 60.0
_STOP_TIMEOUT_S = 15.0
_LOOK_PERIOD_S = 0.05
"""Short against the start of a process."""
_EMPTY = '""'
_REDIS_SETTINGS = {"repl-diskless-sync-delay": "0", "repl-timeout": "10", "repl-ping-replica-period": "1"}


class RoleTarget:
    """A NameServer or broker behind a proxy."""

    def __init__(self, kind: str, label: str, log_dir: Path, options: list[str]) -> None:
        self.label = label
        self.proxy = Proxy()
        self._kind = kind
        self._log_path = log_dir / f"{label}.log"
        self._options = options
        self._role: Role | None = None

    @property
    def address(self) -> str:
        """Where clients find it: the proxy."""
        return f"127.0.0.1:{self.proxy.port}"

    @property
    def pid(self) -> int:
        return self._role.pid if self._role is not None else 0

    async def start(self) -> None:
        if self._role is None:
            await self.proxy.start()
            options = [*self._options, "--listen-host", "127.0.0.1"]
            if self._kind == "broker":
                options += ["--advertised-host", "127.0.0.1", "--advertised-port", str(self.proxy.port)]
                options += ["--fast-listen-port", "0"]  # clients come through the proxy
            self._role = Role(self._kind, self.label, self._log_path, options, "127.0.0.1", 0)
        await self._role.launch()
        self.proxy.target_port = self._role.port

    async def kill(self) -> None:
        assert self._role is not None
        self._role.kill()
        await self._role.wait()

    async def stop(self) -> None:
        if self._role is not None:
            await self._role.stop(_STOP_TIMEOUT_S)


class _ConfiguredServer(EmbeddedServer):
    """Keeps its settings in a file, so that what Sentinels change is still there after a restart."""

    def _arguments(self, binary: Path, port: int) -> list[str]:
        config = self.data_dir / "server.conf"
        if not config.exists():
            head = [f"port {port}", "bind 127.0.0.1", f'dir "{self.data_dir}"', f'logfile "{self.data_dir}/server.log"']
            settings = [f"{name} {value or _EMPTY}" for name, value in self._settings.items()]
            config.write_text("\n".join([*head, *settings, ""]))
        return [str(binary), str(config)]


class RedisTarget:
    """A Redis server behind a proxy, under whose port the others know it."""

    def __init__(self, label: str, directory: Path, replica_of: RedisTarget | None = None) -> None:
        self.label = label
        self.proxy = Proxy()
        self._directory = directory / label
        self._replica_of = replica_of
        self.server: EmbeddedServer | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.proxy.port}/0"

    @property
    def pid(self) -> int:
        return self.server.pid if self.server is not None else 0

    async def start(self) -> None:
        if self.server is None:
            await self.proxy.start()
            announced = {"replica-announce-ip": "127.0.0.1", "replica-announce-port": str(self.proxy.port)}
            settings = _REDIS_SETTINGS | announced
            if self._replica_of is not None:
                settings["replicaof"] = f"127.0.0.1 {self._replica_of.proxy.port}"
            self.server = _ConfiguredServer(self._directory, settings=settings)
        self.server.start()
        self.proxy.target_port = self.server.port

    async def _command(self, *args: object) -> object:
        assert self.server is not None
        async with Redis.from_url(self.server.url, socket_timeout=2.0) as client:
            return await client.execute_command(*args)  # type: ignore[no-untyped-call]

    async def role(self) -> str:
        """master or slave; "" when it does not say."""
        try:
            answer = await self._command("ROLE")
        except (RedisError, OSError, RmqError):
            return ""
        assert isinstance(answer, list)
        return str(answer[0].decode())

    async def kill(self) -> None:
        assert self.server is not None
        self.server.kill()

    async def stop(self) -> None:
        if self.server is not None:
            self.server.stop()


Target = RoleTarget | RedisTarget
"""What a fault can be injected into: it has a process, a proxy before it, and can be killed, stopped and started."""


class Group:
    """A broker group: two brokers, a Redis primary and its replica (which change places)."""

    def __init__(self, name: str, directory: Path) -> None:
        self.name = name
        self.redis = [RedisTarget(f"{name}-redis-1", directory)]
        self.redis.append(RedisTarget(f"{name}-redis-2", directory, self.redis[0]))
        self.brokers: list[RoleTarget] = []


class World:
    """All of it. Use it as an async context manager, in the main thread."""

    def __init__(self, directory: Path, *, groups: int, broker_role: str, report: Callable[[str], None]) -> None:
        self.directory = directory
        self.history_dir = directory / "history"
        self.registry = RedisTarget("registry", directory)
        self.groups = [Group(f"broker-{'abcdefgh'[i]}", directory) for i in range(groups)]
        self.namesrvs: list[RoleTarget] = []
        self.sentinels: list[SentinelServer] = []
        self.workers: list[Child] = []
        self._broker_role = broker_role
        self._report = report

    @property
    def namesrv_addr(self) -> str:
        return ";".join(target.address for target in self.namesrvs)

    def targets(self) -> list[Target]:
        """Everything that faults go to."""
        found: list[Target] = [*self.namesrvs, self.registry]
        for group in self.groups:
            found += [*group.brokers, *group.redis]
        return found

    async def __aenter__(self) -> World:
        try:
            await self._start()
        except BaseException:
            await self.close()
            raise
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.close()

    async def _start(self) -> None:
        self.history_dir.mkdir(parents=True)
        logs = self.directory / "logs"
        self._report(f"starting Redis servers and {SENTINELS} Sentinels")
        await self.registry.start()
        for group in self.groups:
            for server in group.redis:
                await server.start()
        services = {group.name: group.redis[0].proxy.port for group in self.groups}
        for i in range(SENTINELS):
            sentinel = SentinelServer(self.directory / f"sentinel-{i}", services, quorum=2, down_after_ms=DOWN_AFTER_MS)
            self.sentinels.append(sentinel)
            sentinel.start()
        self._report("starting NameServers")
        self.namesrvs = [RoleTarget("namesrv", f"namesrv-{i}", logs, ["--registry", self.registry.url]) for i in (1, 2)]
        await asyncio.gather(*(target.start() for target in self.namesrvs))
        hosts = ",".join(f"127.0.0.1:{sentinel.port}" for sentinel in self.sentinels)
        for group in self.groups:
            options = ["--broker-name", group.name, "--store", f"redis+sentinel://{hosts}/{group.name}"]
            options += ["--namesrv-addr", self.namesrv_addr, "--broker-role", self._broker_role]
            options += ["--lease-s", str(LEASE_S), "--sync-timeout-s", str(SYNC_TIMEOUT_S)]
            for broker_id in (0, 1):
                label = f"{group.name}-{broker_id}"
                group.brokers.append(RoleTarget("broker", label, logs, [*options, "--broker-id", str(broker_id)]))
        self._report("waiting for the Sentinels to see one another and the replicas")
        await eventually(self._watched, _READY_TIMEOUT_S, "Sentinels that see one another and the replicas")
        self._report("starting brokers")
        await asyncio.gather(*(broker.start() for group in self.groups for broker in group.brokers))

    async def _watched(self) -> bool:
        for sentinel in self.sentinels:
            async with Redis(port=sentinel.port, socket_timeout=2.0) as client:
                for group in self.groups:
                    state: Any = await client.sentinel_master(group.name)
                    if state["num-other-sentinels"] != SENTINELS - 1 or state["num-slaves"] != 1:
                        return False
        return True

    async def add_worker(self, mode: str, name: str, topic: str) -> Child:
        """Starts a producer (``send``) or consumer (``consume``)."""
        worker = Child(name, self.directory / "logs" / f"{name}.log")
        path = self.history_dir / f"{name}.jsonl"
        await worker.start("rmq_redis.labs.chaos.worker", mode, name, self.namesrv_addr, topic, str(path))
        if await worker.stdout.readline() != b"ready\n":
            raise ChildError(f"{name} did not start: {worker.last_words()}")
        self.workers.append(worker)
        return worker

    async def close(self) -> None:
        """Ends everything, whatever state it is in."""
        for target in self.targets():
            target.proxy.heal()
            if target.pid:
                try:
                    os.kill(target.pid, signal.SIGCONT)
                except ProcessLookupError:
                    pass
        await asyncio.gather(*(worker.stop(_STOP_TIMEOUT_S) for worker in self.workers))
        roles = [*(broker for group in self.groups for broker in group.brokers), *self.namesrvs]
        await asyncio.gather(*(role.stop() for role in roles))
        for sentinel in self.sentinels:
            sentinel.kill()
        for server in (self.registry, *(server for group in self.groups for server in group.redis)):
            await server.kill() if server.server is not None else None
        for target in self.targets():
            await target.proxy.close()


async def eventually(condition: Callable[[], object], timeout_s: float, what: str) -> float:
    """Waits until an async condition holds; returns the seconds it took. Raises ChildError after ``timeout_s``."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    while not await _value_of(condition):
        if loop.time() - began > timeout_s:
            raise ChildError(f"not within {timeout_s:g} s: {what}")
        await asyncio.sleep(_LOOK_PERIOD_S)
    return loop.time() - began


async def _value_of(condition: Callable[[], object]) -> object:
    value = condition()
    return await value if asyncio.iscoroutine(value) else value
