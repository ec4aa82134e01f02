"""Which broker of a group is its master: renews the lease, takes an expired one, steps down when fenced off."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable
from typing import TypeVar

from ...background import Every
from ...errors import StoreError, StoreFencedError, StoreLostError
from ...model import MASTER_ID
from ...store.group.lease import LeaseStore
from ...store.redis.connection import StoreConnection
from ..office import State
from .duties import Duties
from .state import GroupState

logger = logging.getLogger(__name__)

T = TypeVar("T")

_LOOKS_PER_LEASE = 5
"""Renewals per lease: four in a row may fail."""
_SLOWEST_LOOK_S = 1.0
"""With a long lease, fencing, a lost store and a new primary must still be noticed in time."""


class Leadership:
    """One loop: a master renews the lease; a slave keeps its id and checks whether the group has a master.

    The broker configured with id 0 takes a free lease at once. With ``failover``, a slave takes it if it saw a master
    before, or none for two leases: in a group that is being started, the configured master comes first. After a lost
    connection to the store, both wait for one lease, in which the holder of an expired lease can reconnect.
    """

    def __init__(self, state: GroupState, duties: Duties) -> None:
        """
        Args:
            duties: awaited at each step; ``promote`` and ``restore`` with the lease held and the epoch set.
        """
        self._config = state.config
        self._office = state.office
        self._queue_store = state.queue_store
        self._lease = LeaseStore(state.queue_store, state.address, state.config.broker_id, state.config.lease_s)
        self._period_s = min(state.config.lease_s / _LOOKS_PER_LEASE, _SLOWEST_LOOK_S)
        self._duties = duties
        self._restore_due = False
        self._seen_epoch = 0
        name = f"broker {state.config.broker_name}"
        self._looking = Every(self._period_s, self._look, f"{name}: looking after the lease", backs_off=False)
        self._following = Every(
            self._period_s, self._follow_primary, f"{name}: looking for the primary", backs_off=False
        )
        self._loop = asyncio.get_running_loop()
        self._may_take_at = 0.0
        self._holder_until = 0.0
        self._master = ""
        self._looked_over: StoreConnection | None = None
        state.office.on_change(self._office_changed)

    @property
    def _name(self) -> str:
        return f"broker {self._config.broker_name} id {self._office.broker_id}"

    async def start(self) -> None:
        """Runs the first step, so that a master is one when it begins to serve, and goes on in the background.

        Raises:
            StoreError: the store refuses a command of the configured master; a slave goes on without the lease.
        """
        self._may_take_at = self._loop.time() + 2 * self._config.lease_s
        try:
            await self._look()
        except StoreError as error:
            if self._config.broker_id == MASTER_ID:
                raise
            logger.info("%s: starts without looking after the lease: %s", self._name, error)
        self._looking.start()
        self._following.start()

    def _office_changed(self) -> None:
        if self._office.state is State.FENCED:  # the next steps run in the background
            self._looking.wake()

    async def stop(self) -> None:
        """Stops the loop; the role stays as it is."""
        await asyncio.gather(self._looking.close(), self._following.close())

    async def release(self) -> None:
        """Releases a master's lease, so that its successor does not wait until it expires."""
        if self._office.is_writing:
            try:
                async with asyncio.timeout(self._config.stop_timeout_s):
                    await self._lease.release()
            except (StoreError, TimeoutError) as error:
                logger.debug("%s: the lease was not released: %s", self._name, error)

    async def _follow_primary(self) -> None:
        """Follows a failover of Redis: a replaced primary that hung may accept writes for seconds, which are lost."""
        await self._queue_store.follow_primary()

    async def _look(self) -> None:
        if self._office.broker_id == MASTER_ID:
            await self._look_as_master()
        else:
            await self._look_as_slave()

    async def _answered(self, call: Awaitable[T]) -> T:
        """The result of a call; reconnects to a store that does not answer for a whole lease. Raises StoreError."""
        try:
            async with asyncio.timeout(self._config.lease_s):
                return await call
        except TimeoutError:
            self._queue_store.reconnect()
            raise StoreError(f"the store did not answer for {self._config.lease_s:g} s") from None

    # --- master ------------------------------------------------------------------------------------------------------

    async def _look_as_master(self) -> None:
        try:
            if self._restore_due:
                await self._work_on()
            await self._answered(self._lease.renew())
            if not self._office.is_writing:
                raise StoreFencedError("a write was refused")
            await self._answered(self._queue_store.ping_writes())
            await self._answered(self._duties.check())
        except StoreLostError as error:
            logger.error(
                "%s: the store has lost data (FLUSHALL, an evicted key, an older snapshot, a restart without "
                "persistence); topics, groups and offsets are written again: %s",
                self._name,
                error,
            )
            if not await self._take_again():
                await self._step_down()
        except StoreFencedError as error:
            logger.warning("%s: another process is the master now: %s", self._name, error)
            await self._step_down()

    async def _take_again(self) -> bool:
        """Keeps the group after the store lost the lease. False if another broker was faster."""
        epoch = await self._answered(self._lease.take())
        if epoch is None:
            return False
        self._queue_store.begin_writing(epoch)
        self._office.take_over()
        self._restore_due = True
        await self._work_on()
        return True

    async def _work_on(self) -> None:
        await self._while_renewing(self._duties.restore())
        self._restore_due = False
        logger.warning("%s: goes on as master, epoch %d", self._name, self._queue_store.epoch)

    async def _step_down(self) -> None:
        self._restore_due = False
        self._queue_store.end_writing()
        self._office.slave_id = max(self._config.broker_id, 1)
        self._office.step_down()
        self._may_take_at = self._loop.time() + self._config.lease_s
        try:
            await self._answered(self._claim())
        except StoreError as error:
            logger.info("%s: has no id as a slave yet: %s", self._name, error)
        await self._duties.demote()
        logger.warning("%s: is a slave now", self._name)

    # --- slave -------------------------------------------------------------------------------------------------------

    async def _claim(self) -> str:
        """Keeps an id as a slave; returns the master's address, or "" if there is none."""
        connection = self._queue_store.current()
        broker_id, master, epoch = await self._lease.claim_slave_id()
        if broker_id:
            self._office.slave_id = broker_id
        was_lost, self._seen_epoch = epoch < self._seen_epoch, epoch
        if connection is not self._looked_over or was_lost:
            # It may lead to another server, or one that restarted, without the last renewals of the lease and the last
            # messages. The lease's holder, if it is alive, knows the ends of the queues, so it comes first.
            if self._master:
                self._holder_until = self._loop.time() + self._config.lease_s
            self._looked_over = connection
        self._master = master if master != self._lease.address else ""
        return master

    async def _look_as_slave(self) -> None:
        if self._looked_over is None and self._config.broker_id == MASTER_ID and await self._take():
            return  # the first step; without an id as a slave, so that a broker that starts meanwhile can have it
        before, master = self._office.slave_id, ""

        async def look() -> None:
            nonlocal master
            master = await self._claim()

        await self._answered(look())
        await self._answered(self._queue_store.ping_reads())
        if master and master != self._lease.address:
            self._may_take_at = 0.0
        elif self._may_take() and await self._take():
            return
        if self._office.slave_id != before:
            await self._duties.moved()

    def _may_take(self) -> bool:
        if self._loop.time() < self._holder_until:
            return False
        if self._config.broker_id == MASTER_ID:
            return True
        return self._config.failover and self._loop.time() >= self._may_take_at

    async def _take(self) -> bool:
        epoch = await self._answered(self._lease.take())
        if epoch is None:
            return False
        self._queue_store.begin_writing(epoch)
        self._office.take_over()
        logger.warning("broker %s: takes the group over as master, epoch %d", self._config.broker_name, epoch)
        try:
            await self._while_renewing(self._duties.promote())
        except BaseException:
            self._office.step_down()  # first, as stopping this loop would cancel a slow release, too
            try:
                await self._answered(self._lease.release())
            except StoreError as failure:
                logger.debug("%s: the lease was not released: %s", self._name, failure)
            finally:
                self._queue_store.end_writing()
            raise
        return True

    async def _while_renewing(self, work: Awaitable[None]) -> None:
        """Awaits a step that may take long with many topics, and renews the lease meanwhile."""
        task = asyncio.ensure_future(work)
        try:
            while not task.done():
                await asyncio.wait([task], timeout=self._period_s)
                if not task.done():
                    await self._renew_quietly()
        finally:
            if not task.done():  # a stop must end it, too
                task.cancel()
                await asyncio.wait([task])
        await task

    async def _renew_quietly(self) -> None:
        """Renews the lease; if the store does not answer, the step that waits for it fails, too."""
        try:
            await self._answered(self._lease.renew())
        except StoreError as error:
            logger.debug("%s: %s", self._name, error)
