"""Keeps a NameServer's route table and the registry in step: writes, listens, sweeps, and survives outages.

One task does all reading and writing, so nothing it reads can be older than what it wrote. Meanwhile the table changes
at any time: what the registry does not know yet is in ``table.changes`` and wins over what is read.
"""

from __future__ import annotations

import asyncio
import logging
import time
from contextlib import aclosing

from ..background import Every
from ..errors import StoreError
from ..store.registry.entries import GroupKey, GroupSnapshot, GroupWrite, RegistryEvent
from ..store.registry.routes import RouteStore
from .groups import GroupChanges
from .shared_routes import SharedRouteTable

logger = logging.getLogger(__name__)

_RETRY_S = 0.1
"""A restart of Redis or a failover that ends at once should not be noticed."""
_MAX_RETRY_S = 2.0
"""After an outage, all NameServers know the same routes again within about 2 s."""
_CLOSE_S = 2.0
"""One write usually takes a few ms; a stop must not wait longer for a registry that does not answer."""
_IDLE_S = 3600.0
"""Pause of the worker that nothing wakes; the sweeps do."""


class RegistrySync:
    """The background work between a table and its registry.

    Attributes:
        up: whether the registry answered the last time; None before the first attempt.
    """

    def __init__(self, table: SharedRouteTable, store: RouteStore, *, sweep_period_s: float) -> None:
        self.table = table
        self.sweep_period_s = sweep_period_s
        self.up: bool | None = None
        self._store = store
        name = f"registry {store.address}"
        self._working = Every(_MAX_RETRY_S, self._work, f"{name}: reading and writing", at_once=True, retry_s=_RETRY_S)
        self._listening = Every(_MAX_RETRY_S, self._listen, f"{name}: subscribing", at_once=True, retry_s=_RETRY_S)
        self._sweeping = Every(sweep_period_s, self._sweep, f"{name}: sweeping")
        self._subscribed = asyncio.Event()
        self._attempted = asyncio.Event()
        self._stale: dict[GroupKey, bool] = {}
        self._stale_all = True
        self._stale_kv = True
        self._forget_from_s = 0.0

    def wake(self) -> None:
        """Has the changes of the table written soon."""
        self._working.wake()

    async def start(self) -> None:
        """Loads everything if the registry is reachable, and continues in the background in any case."""
        self._listening.start()
        await self._subscribed.wait()  # before loading: later changes are notified
        self._working.start()
        await self._attempted.wait()
        self._sweeping.start()

    async def close(self) -> None:
        """Stops, after writing the last changes if the registry answers soon."""
        await asyncio.gather(self._working.close(), self._listening.close(), self._sweeping.close())
        if self.up:
            try:
                async with asyncio.timeout(_CLOSE_S):
                    await self._write()
            except (StoreError, TimeoutError) as error:
                logger.debug("registry %s: %s", self._store.address, error)
        if self.table.changes:
            logger.warning("registry %s: the last changes could not be written", self._store.address)

    # --- the one task that reads and writes ----------------------------------------------------------------------

    async def _work(self) -> float:
        """Brings table and registry in step; the next turn comes when something wakes it. Raises StoreError."""
        try:
            if self._stale_all or not self.up:
                await self._read_all()
            await self._write()
        except StoreError as error:
            if self.up is not False:
                logger.warning(
                    "registry %s: not available, answering from the routes known so far: %s", self._store.address, error
                )
            self.up = False
            await self._store.drop_idle_connections()
            raise
        finally:
            self._attempted.set()
        return _IDLE_S

    async def _read_all(self) -> None:
        self._stale_all = self._stale_kv = False
        try:
            snapshots = await self._store.load(self.table.revisions())
            kv = await self._store.load_kv()
        except StoreError:
            self._stale_all = True
            raise
        now_s = time.monotonic()
        if self.up is False:
            # Other NameServers come back within this time and write what we know from them only.
            self._forget_from_s = now_s + max(2 * self.sweep_period_s, 2 * _MAX_RETRY_S)
        forget = now_s >= self._forget_from_s
        for key in sorted(self.table.keys() | set(snapshots)):
            self.table.merge(key, snapshots.get(key, GroupSnapshot()), now_s, forget=forget)
        self.table.set_kv(kv)
        if self.up is False:
            count = self.table.write_direct_again(now_s)
            logger.info("registry %s: available again, %d brokers are written", self._store.address, count)
        self.up = True

    async def _write(self) -> None:
        if self._stale_kv:
            self._stale_kv = False
            try:
                self.table.set_kv(await self._store.load_kv())
            except StoreError:
                self._stale_kv = True
                raise
        while self._stale or self.table.changes:
            for key in set(self._stale) | set(self.table.changes):
                await self._update(key)
        now_s = time.monotonic()
        refreshed = self.table.take_refreshed(now_s)
        if refreshed:
            for key in await self._store.refresh(refreshed):
                self._stale[key] = False
                self.wake()

    async def _update(self, key: GroupKey) -> None:
        """Reads one group, merges, and writes what changed here."""
        forget = self._stale.pop(key, False) or time.monotonic() >= self._forget_from_s
        taken: GroupChanges | None = None
        read = GroupSnapshot()

        def decide(snapshot: GroupSnapshot) -> GroupWrite | None:
            nonlocal taken, read
            if taken:  # another NameServer was faster: repeat
                self.table.restore_changes(key, taken)
            read, now_s = snapshot, time.monotonic()
            self.table.merge(key, snapshot, now_s, forget=forget)
            taken = self.table.take_changes(key)
            return self.table.group_write(key, snapshot, taken, now_s) if taken else None

        try:
            revision = await self._store.update_group(key, self.table.revisions().get(key, ""), decide)
        except BaseException:
            self._stale[key] = forget
            if taken:
                self.table.restore_changes(key, taken)
            raise
        self.table.written(key, read.revision, revision)

    # --- what wakes that task --------------------------------------------------------------------------------------

    async def _listen(self) -> float:
        """Receives the changes of other NameServers. After a break, reads everything again. Raises StoreError."""
        was_subscribed = False
        try:
            async with aclosing(self._store.events()) as events:
                async for event in events:
                    was_subscribed = True
                    if event is None:
                        self._subscribed.set()
                        self._stale_all = True
                    else:
                        self._heard(event)
                    self.wake()
        except StoreError as error:
            self._subscribed.set()  # start() continues without
            self._stale_all = True
            self.wake()
            if not was_subscribed:
                raise
            logger.debug("registry %s: subscription lost: %s", self._store.address, error)
        return _RETRY_S

    def _heard(self, event: RegistryEvent) -> None:
        if event.kind == "kv":
            self._stale_kv = True
            return
        key = GroupKey(event.cluster, event.broker_name)
        if event.kind == "unregistered":
            self.table.unregistered_elsewhere(key, event.removed)
        self._stale[key] = self._stale.get(key, False) or event.kind != "changed"

    async def _sweep(self) -> float:
        for broker in self.table.expire(time.monotonic(), registry_up=bool(self.up)):
            logger.warning(
                "broker %s:%d at %s: no heartbeat for %g s, dropped",
                broker.broker_name,
                broker.broker_id,
                broker.broker_addr,
                self.table.timeout_s(broker),
            )
        self._stale_all = True
        self.wake()
        return self.sweep_period_s
