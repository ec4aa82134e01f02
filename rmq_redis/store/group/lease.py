"""Who is the master of a broker group: a lease in the group's Redis with a growing epoch, and the ids of the slaves."""

from __future__ import annotations

import time

from ..redis.connection import Arg
from .session import GroupSession

MAX_SLAVE_ID = 16
"""A broker without an id of its own (a master that is none any more) gets one up to this."""


class LeaseStore:
    """One broker's part in it, under its address. Everything raises StoreError when the store is unavailable.

    A lease that its holder does not renew for ``lease_s`` seconds expires. A broker with the holder's address gets it
    at once: two processes cannot listen on one port, so the holder has ended.
    """

    def __init__(self, session: GroupSession, address: str, broker_id: int, lease_s: float) -> None:
        """
        Args:
            broker_id: the id wanted as a slave; 0: any.
        """
        self._session = session
        self.address = address
        self._wanted_id = broker_id
        self._lease_ms = max(1, int(lease_s * 1000))
        self._ids = list(range(1, MAX_SLAVE_ID + 1))
        if broker_id > MAX_SLAVE_ID:
            self._ids.append(broker_id)
        self._slave_keys = [session.keys.slave(i) for i in self._ids]

    async def take(self) -> int | None:
        """Takes the lease; returns the new epoch, with which everything older is fenced off. None: another has it."""
        keys = [self._session.keys.epoch, self._session.keys.lease, *self._slave_keys]
        args: list[Arg] = [int(time.time() * 1000), self.address, self._lease_ms]
        return int(await self._session.current().execute_function("take_lease", keys, args) or 0) or None

    async def renew(self) -> None:
        """Keeps the lease. Raises StoreFencedError when another took it."""
        # Not behind the appends: synchronous replication may hold these up.
        connection, keys = self._session.current_read(), [self._session.keys.lease]
        await self._session.call_over(connection, "renew_lease", keys, [self.address, self._lease_ms])

    async def release(self) -> None:
        """Releases the lease: a slave need not wait until it expires."""
        await self._session.call_over(self._session.current(), "release_lease", [self._session.keys.lease], [])

    async def claim_slave_id(self) -> tuple[int, str, int]:
        """Takes or keeps a slave's id: the one wanted as soon as it is free, until then another.

        Returns:
            The id (0: all are taken), the address of the master ("": there is none), and the group's epoch.
        """
        args: list[Arg] = [self.address, self._lease_ms, self._wanted_id, *self._ids]
        keys = [self._session.keys.lease, self._session.keys.epoch, *self._slave_keys]
        broker_id, master, epoch = await self._session.current().execute_function("claim_slave_id", keys, args)
        return int(broker_id), master.decode(), int(epoch)
