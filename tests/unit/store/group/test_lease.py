"""The lease of a group's master and the ids of its slaves, on every kind of server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest
from helpers import eventually

from rmq_redis.errors import StoreFencedError
from rmq_redis.store.group.lease import MAX_SLAVE_ID, LeaseStore
from rmq_redis.store.group.queues import QueueStore
from rmq_redis.store.group.session import StoreSettings
from rmq_redis.store.keys import GroupKeys

LONG_S = 600.0
OpenLease = Callable[..., LeaseStore]


@pytest.fixture
async def queue_store(store_url: str, key_prefix: str) -> AsyncIterator[QueueStore]:
    """A store that took nothing over."""
    store = QueueStore(
        StoreSettings(url=store_url, reads_only=True),
        GroupKeys(key_prefix, "broker-a"),
        on_new_records=lambda *args: None,
        on_fenced=lambda error: None,
    )
    await store.start()
    yield store
    await store.close()


@pytest.fixture
def lease(queue_store: QueueStore) -> OpenLease:
    """Makes the part of a broker at an address."""

    def make(address: str, broker_id: int = 0, lease_s: float = LONG_S) -> LeaseStore:
        return LeaseStore(queue_store, address, broker_id, lease_s)

    return make


async def took(lease: LeaseStore) -> int:
    epoch = await lease.take()
    assert epoch is not None
    return epoch


async def test_lease_has_one_holder(lease: OpenLease) -> None:
    assert await lease("h:1").take()
    assert await lease("h:2").take() is None
    assert (await lease("h:2").claim_slave_id())[:2] == (1, "h:1")


async def test_every_epoch_is_larger_than_the_one_before(lease: OpenLease, queue_store: QueueStore) -> None:
    first = await took(lease("h:1"))
    second = await took(lease("h:1"))  # restarted at the same address: at once
    assert second > first
    ahead = first + 10**9  # its clock is behind
    await queue_store.current().execute("SET", queue_store.keys.epoch, ahead)
    assert await lease("h:1").take() == ahead + 1


async def test_epoch_is_never_reused_even_if_the_store_lost_it(lease: OpenLease, queue_store: QueueStore) -> None:
    first = await took(lease("h:1"))
    await queue_store.current().execute("DEL", queue_store.keys.epoch, queue_store.keys.lease)
    await asyncio.sleep(0.002)
    assert await took(lease("h:2")) > first


async def test_a_lease_expires_unless_it_is_renewed(lease: OpenLease, queue_store: QueueStore) -> None:
    short, other = lease("h:1", lease_s=0.05), lease("h:2")
    queue_store.begin_writing(await took(short))
    epoch = await eventually(other.take)
    with pytest.raises(StoreFencedError):
        await short.renew()
    with pytest.raises(StoreFencedError):
        await short.release()
    queue_store.begin_writing(epoch)
    await other.renew()
    assert await short.take() is None
    await other.release()
    assert await short.take()


async def test_slaves_get_ids_of_their_own(lease: OpenLease) -> None:
    assert (await lease("h:2", 2).claim_slave_id())[:2] == (2, "")
    assert (await lease("h:1").claim_slave_id())[:2] == (1, "")
    assert (await lease("h:1").claim_slave_id())[:2] == (1, "")
    assert (await lease("h:4", 2).claim_slave_id())[:2] == (3, "")
    assert (await lease("h:40", 40).claim_slave_id())[:2] == (40, "")


async def test_slave_moves_to_its_preferred_id_once_free(lease: OpenLease) -> None:
    holder, mine = lease("h:0", 1), lease("h:1", 1)
    await holder.claim_slave_id()
    assert (await mine.claim_slave_id())[:2] == (2, "")
    await holder._session.current().execute("DEL", holder._slave_keys[0])  # its time is over
    assert (await mine.claim_slave_id())[:2] == (1, "")
    assert (await lease("h:2", 2).claim_slave_id())[:2] == (2, "")


async def test_the_id_of_a_slave_that_becomes_the_master_is_free(lease: OpenLease) -> None:
    new, old = lease("h:2", 1), lease("h:1")
    await new.claim_slave_id()
    await new.take()
    assert (await old.claim_slave_id())[:2] == (1, "h:2")


async def test_slave_gets_id_0_when_all_ids_are_taken(lease: OpenLease) -> None:
    for port in range(1, MAX_SLAVE_ID + 1):
        assert (await lease(f"h:{port}").claim_slave_id())[0] == port
    assert (await lease("h:99").claim_slave_id())[0] == 0
