"""QUERY_MESSAGE: by unique key, by business key, within a time range."""

from __future__ import annotations

import time

import pytest
from helpers import BrokerClient, eventually, heartbeat_request, send_request
from hypothesis import given
from hypothesis import strategies as st

from rmq_redis.broker.admin.message_scan import OutwardScan, Window
from rmq_redis.codes import RequestCode
from rmq_redis.protocol.batch import encode_batch_item
from rmq_redis.protocol.command import RemotingCommand, request
from rmq_redis.protocol.headers.query import QueryMessageRequestHeader, QueryMessageResponseHeader
from rmq_redis.protocol.ids import UniqKeyGenerator, unique_key_time_ms
from rmq_redis.protocol.record import decode_records

KEYS = UniqKeyGenerator(b"\x0a\x00\x00\x07", 1, b"salt")


def now_ms() -> int:
    return int(time.time() * 1000)


def query(
    key: str, *, unique: bool = False, begin: int = 0, end: int | None = None, count: int = 10
) -> RemotingCommand:
    end_ms = now_ms() + 1000 if end is None else end
    header = QueryMessageRequestHeader("T", key, count, begin, end_ms, "true" if unique else "false")
    return request(RequestCode.QUERY_MESSAGE, header)


async def send(client: BrokerClient, body: str, unique_key: str, keys: str, queue_id: int = 0) -> None:
    properties = f"UNIQ_KEY\x01{unique_key}\x02KEYS\x01{keys}\x02"
    await client.ok(send_request("T", body.encode(), queue_id=queue_id, properties=properties))


async def bodies(client: BrokerClient, command: RemotingCommand) -> list[str]:
    answer = await client.ok(command)
    assert answer.header(QueryMessageResponseHeader).index_last_update_timestamp > 0
    return [message.text() for message in decode_records(answer.body)]


async def test_message_is_found_by_unique_key(client: BrokerClient) -> None:
    unique = [KEYS.next(now_ms()) for _ in range(40)]
    for number, key in enumerate(unique):
        await send(client, f"m{number}", key, "k", queue_id=number % 4)
    assert await bodies(client, query(unique[17], unique=True)) == ["m17"]
    assert (await client.ask(query(KEYS.next(now_ms()), unique=True))).code == 22
    assert (await client.ask(query("no-such-key", unique=True))).code == 22


async def test_unique_key_of_another_form_is_found_by_its_time_range(client: BrokerClient) -> None:
    await send(client, "odd", "my-own-id", "k")
    assert await bodies(client, query("my-own-id", unique=True)) == ["odd"]


async def test_query_by_business_key_keeps_the_newest_in_store_order(client: BrokerClient) -> None:
    for number in range(6):
        await send(client, f"m{number}", KEYS.next(now_ms()), f"order-{number % 2} common", queue_id=number % 4)
    await send(client, "order-1 in the body only", KEYS.next(now_ms()), "other")
    assert sorted(await bodies(client, query("order-1"))) == ["m1", "m3", "m5"]
    assert len(await bodies(client, query("common", count=4))) == 4
    assert (await client.ask(query("order"))).code == 22


async def test_query_returns_at_most_64_messages_and_32_by_unique_key(client: BrokerClient) -> None:
    for number in range(70):
        await send(client, f"m{number}", "the-same-id", "k", queue_id=number % 4)
    found = await bodies(client, query("k", count=1000))
    assert (len(set(found)), "m69" in found) == (64, True)
    assert len(await bodies(client, query("the-same-id", count=1000, unique=True))) == 32


async def test_query_is_limited_to_its_time_range(client: BrokerClient) -> None:
    await send(client, "old", KEYS.next(now_ms()), "k")
    stored_ms = (await client.pull("T", 0)).messages[0].store_timestamp_ms
    assert await bodies(client, query("k", begin=stored_ms, end=stored_ms)) == ["old"]
    assert (await client.ask(query("k", begin=stored_ms + 1))).code == 22
    assert (await client.ask(query("k", end=stored_ms - 1))).code == 22


@pytest.mark.parametrize("made_ms", [1_700_000_000_000, 1_709_251_199_999, 1_704_067_200_000])
@pytest.mark.parametrize("age_ms", [0, 5_000, 20 * 24 * 3_600_000])
def test_time_of_a_unique_key_is_decoded(made_ms: int, age_ms: int) -> None:
    assert unique_key_time_ms(KEYS.next(made_ms), made_ms + age_ms) == made_ms


@pytest.mark.parametrize("key", ["", "abc", "x" * 32, "A" * 31])
def test_malformed_unique_key_has_no_time(key: str) -> None:
    assert unique_key_time_ms(key, 1_700_000_000_000) is None


@pytest.mark.parametrize("shift_s", [-86_400, -3600, -90, 0, 90, 3600, 86_400, 40 * 86_400])
@pytest.mark.parametrize("topic", ["T", "%RETRY%G", "%DLQ%G"])
async def test_unique_key_with_a_wrong_clock_is_found(topic: str, shift_s: int, client: BrokerClient) -> None:
    key = KEYS.next(now_ms() + shift_s * 1000)
    await client.ok(heartbeat_request("c", "G", {"T": "*"}))
    await client.ok(send_request(topic, b"wanted", properties=f"UNIQ_KEY\x01{key}\x02"))
    await client.ok(send_request(topic, b"other", properties=f"UNIQ_KEY\x01{KEYS.next(now_ms())}\x02"))
    header = QueryMessageRequestHeader(topic, key, 32, 0, now_ms() + 1000, "true")
    assert await bodies(client, request(RequestCode.QUERY_MESSAGE, header)) == ["wanted"]


@pytest.mark.parametrize("shift_s", [-90, 0, 90, 3600])
async def test_unique_key_is_found_if_the_client_computed_the_begin_from_it(shift_s: int, client: BrokerClient) -> None:
    """As mqadmin 4.x does, on the clock of the producer."""
    made_ms = now_ms() + shift_s * 1000
    key = KEYS.next(made_ms)
    await client.ok(send_request("T", b"wanted", properties=f"UNIQ_KEY\x01{key}\x02"))
    header = QueryMessageRequestHeader("T", key, 32, made_ms - 1000, 2**63 - 1, "true")
    assert await bodies(client, request(RequestCode.QUERY_MESSAGE, header)) == ["wanted"]


async def test_all_copies_in_a_retry_topic_are_found_by_their_unique_key(
    client: BrokerClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rmq_redis.broker.admin.messages._LATEST_STORE_MS", 0)
    made_ms = now_ms() + 300  # the first is stored before that, the second after it
    key = KEYS.next(made_ms)
    await client.ok(heartbeat_request("c", "G", {"T": "*"}))
    for number in range(2):
        await client.ok(send_request("%RETRY%G", b"%d" % number, properties=f"UNIQ_KEY\x01{key}\x02"))
        await eventually(lambda: now_ms() > made_ms + 1)
    header = QueryMessageRequestHeader("%RETRY%G", key, 32, 0, now_ms() + 1000, "true")
    assert await bodies(client, request(RequestCode.QUERY_MESSAGE, header)) == ["0", "1"]


async def long_queue(client: BrokerClient, nums: int, wanted_at: int, key: str) -> None:
    """A queue of T that has ``key`` at one offset, and keys of its own elsewhere."""
    batch = b""
    for number in range(nums):
        item = encode_batch_item(
            b"wanted" if number == wanted_at else b"other", unique_property(key, number == wanted_at)
        )
        batch = batch + item if number % 500 else item
        if number % 500 == 499:
            await client.ok(send_request("T", batch, code=RequestCode.SEND_BATCH_MESSAGE, properties="", batch=True))


def unique_property(key: str, is_wanted: bool) -> bytes:
    return f"UNIQ_KEY\x01{key if is_wanted else KEYS.next(now_ms())}\x02".encode()


@pytest.mark.parametrize("wanted_at", [0, 1500, 2999], ids=["oldest", "middle", "newest"])
@pytest.mark.parametrize("shift_s", [-3600, -30, 30, 3600])
async def test_unique_key_with_a_wrong_clock_is_found_in_a_long_queue(
    client: BrokerClient, monkeypatch: pytest.MonkeyPatch, shift_s: int, wanted_at: int
) -> None:
    monkeypatch.setattr("rmq_redis.broker.admin.messages.MAX_SCANNED_NUMS", 100)
    key = KEYS.next(now_ms() + shift_s * 1000)
    await long_queue(client, 3000, wanted_at, key)
    assert await bodies(client, query(key, unique=True)) == ["wanted"]
    assert await bodies(client, query(key, unique=True, begin=1)) == ["wanted"]
    assert (await client.ask(query(KEYS.next(now_ms()), unique=True))).code == 22


async def test_query_that_takes_too_long_is_an_error(client: BrokerClient, monkeypatch: pytest.MonkeyPatch) -> None:
    key = KEYS.next(now_ms())
    await long_queue(client, 500, 0, key)
    monkeypatch.setattr("rmq_redis.broker.admin.messages.SEARCH_S", -1.0)
    answer = await client.ask(query(key, unique=True))
    assert (answer.code, "not searched whole" in (answer.remark or "")) == (22, True)


@given(
    reach=st.tuples(st.integers(0, 40_000), st.integers(0, 40_000)).map(sorted),
    centre=st.integers(0, 50_000),
    window=st.tuples(st.integers(0, 40_000), st.integers(0, 40_000)).map(sorted),
)
def test_outward_scan_visits_everything_once(reach: list[int], centre: int, window: list[int]) -> None:
    scan = OutwardScan(Window(*reach), centre, Window(*window))
    looked_at: list[int] = []
    while parts := scan.next(1 << 62):
        for part in parts:
            looked_at += range(*part)
        if scan.is_window_done:
            assert set(range(max(window[0], reach[0]), min(window[1], reach[1]))) <= set(looked_at)
    assert sorted(looked_at) == list(range(*reach))
    assert (scan.is_window_done, scan.looked_at) == (True, len(looked_at))


@given(limit=st.integers(0, 5000))
def test_outward_scan_respects_its_limit_and_starts_at_its_center(limit: int) -> None:
    scan = OutwardScan(Window(0, 100_000), 50_000, Window(0, 100_000))
    parts = scan.next(limit)
    assert sum(part.end - part.first for part in parts) == scan.looked_at <= limit
    assert not parts or parts[0].first == 50_000
