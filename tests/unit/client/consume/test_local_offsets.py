"""Offsets of broadcasting consumers: the file, its version before, its lock, and restarts against fake brokers."""

from __future__ import annotations

import asyncio
import json
import os
import threading
from pathlib import Path
from typing import Any

import pytest
from client_fakes import FakeCluster, cluster, until

from rmq_redis.client.consume.local_offsets import LocalOffsets, claim, store_path
from rmq_redis.client.consume.push import AsyncPushConsumer
from rmq_redis.errors import ClientError, ConfigError
from rmq_redis.model import MessageExt, MessageQueue

A, B = MessageQueue("T", "broker-a", 0), MessageQueue("T", "broker-a", 1)


def test_saved_offsets_are_loaded(tmp_path: Path) -> None:
    first = claim(tmp_path, "10.0.0.1", "", "G")
    assert (first.client_id, first.load()) == ("10.0.0.1@DEFAULT", {})
    first.save({B: 7, A: 3})
    first.save({B: 8, A: 3})
    first.close()
    again = claim(tmp_path, "10.0.0.1", "", "G")
    assert (again.client_id, again.load()) == ("10.0.0.1@DEFAULT", {A: 3, B: 8})
    again.close()
    directory = tmp_path / "10.0.0.1@DEFAULT" / "G"
    assert sorted(os.listdir(directory)) == ["lock", "offsets.json", "offsets.json.bak"]
    assert json.loads((directory / "offsets.json").read_text())["offsets"][0] == {
        "topic": "T",
        "brokerName": "broker-a",
        "queueId": 0,
        "offset": 3,
    }


@pytest.mark.parametrize("damage", [b"", b'{"offsets": [{"topic": "T", "bro', b"\xff\xfe", b"[]", None])
def test_damaged_file_falls_back_to_the_previous_version(
    tmp_path: Path, damage: bytes | None, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("WARNING")
    mine = claim(tmp_path, "10.0.0.1", "", "G")
    mine.save({A: 3})
    mine.save({A: 4})
    path = tmp_path / "10.0.0.1@DEFAULT" / "G" / "offsets.json"
    if damage is None:  # killed between the two renames
        path.unlink()
    else:
        path.write_bytes(damage)
    assert mine.load() == {A: 3}
    assert ("cannot be read, trying the version before" in caplog.text) == (damage is not None)
    path.with_suffix(".json.bak").write_bytes(b"damaged, too")
    assert mine.load() == {}
    mine.close()


def test_members_of_one_machine_use_separate_files(tmp_path: Path) -> None:
    members = [claim(tmp_path, "10.0.0.1", "", "G") for _ in range(3)]
    assert [member.client_id.partition("@")[2] for member in members] == ["DEFAULT", "DEFAULT-2", "DEFAULT-3"]
    members[1].close()
    back = claim(tmp_path, "10.0.0.1", "", "G")
    assert back.client_id == "10.0.0.1@DEFAULT-2"
    named = claim(tmp_path, "10.0.0.1", "blue", "G")
    with pytest.raises(ClientError, match="instance_name='blue' runs already"):
        claim(tmp_path, "10.0.0.1", "blue", "G")
    other_group = claim(tmp_path, "10.0.0.1", "blue", "H")
    for member in (members[0], members[2], back, named, other_group):
        member.close()


def test_directory_that_cannot_be_created_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="set offset_store_path"):
        claim(tmp_path / "file", "10.0.0.1", "", "G")


def test_default_path_is_in_the_data_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", "/data")
    assert store_path("") == Path("/data/rmq-redis/offsets")
    monkeypatch.delenv("XDG_DATA_HOME")
    assert store_path("") == Path.home() / ".local/share/rmq-redis/offsets"
    assert store_path("~/offsets") == Path.home() / "offsets"


def saved(path: Path) -> dict[int, int]:
    """Queue id -> offset in a file."""
    return {entry["queueId"]: entry["offset"] for entry in json.loads(path.read_text())["offsets"]}


def broadcaster(fake: FakeCluster, seen: list[str], tmp_path: Path, **options: Any) -> AsyncPushConsumer:
    async def handle(message: MessageExt) -> None:
        seen.append(message.text())

    consumer = AsyncPushConsumer(
        "G",
        config=fake.config(),
        message_model="BROADCASTING",
        offset_store_path=str(tmp_path),
        **options,
    )
    consumer.subscribe("T", "*", handle)
    return consumer


async def test_restarted_member_resumes_at_its_offset(tmp_path: Path) -> None:
    seen: list[str] = []
    async with cluster() as fake:
        fake.broker.put("T", 0, b"before")
        async with broadcaster(fake, seen, tmp_path) as consumer:
            client_id = consumer.client_id
            assert client_id.endswith("@DEFAULT")
        fake.broker.put("T", 0, b"missed")  # the end of the queue is not where it begins again
        async with broadcaster(fake, seen, tmp_path) as consumer:
            assert consumer.client_id == client_id
            await until(lambda: seen)
            fake.broker.put("T", 1, b"live")
            await until(lambda: len(seen) == 2)
        async with broadcaster(fake, seen, tmp_path):
            fake.broker.put("T", 0, b"last")
            await until(lambda: len(seen) == 3)
        assert seen == ["missed", "live", "last"]
        assert not fake.broker.offsets


async def test_initial_offset_is_saved_at_once(tmp_path: Path) -> None:
    """A member that is killed before any message came must not begin at the end again."""
    async with cluster() as fake:
        fake.broker.put("T", 0, b"before")
        async with broadcaster(fake, [], tmp_path, instance_name="m") as consumer:
            assert consumer.client_id.endswith("@m")
            assert saved(tmp_path / consumer.client_id / "G" / "offsets.json") == {0: 1, 1: 0}


async def test_second_member_with_the_same_name_is_refused(tmp_path: Path) -> None:
    async with cluster() as fake, broadcaster(fake, [], tmp_path, instance_name="m"):
        with pytest.raises(ClientError, match="runs already"):
            await broadcaster(fake, [], tmp_path, instance_name="m").start()


async def test_close_does_not_write_during_an_unfinished_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A slow disk: two writes at a time would mix in one file, and the directory must not be left to another yet."""
    running: list[int] = []
    at_once: list[int] = []
    slow, go_on = threading.Event(), threading.Event()
    save, close = LocalOffsets.save, LocalOffsets.close

    def slow_save(self: LocalOffsets, offsets: dict[MessageQueue, int]) -> None:
        running.append(1)
        at_once.append(len(running))
        if slow.is_set():
            go_on.wait(30)
        save(self, offsets)
        running.pop()

    def checked_close(self: LocalOffsets) -> None:
        at_once.append(len(running) + 1)
        close(self)

    monkeypatch.setattr(LocalOffsets, "save", slow_save)
    monkeypatch.setattr(LocalOffsets, "close", checked_close)
    seen: list[str] = []
    async with cluster() as fake:
        consumer = broadcaster(fake, seen, tmp_path, persist_consumer_offset_interval_s=0.02, instance_name="m")
        await consumer.start()
        slow.set()
        fake.broker.put("T", 0, b"a")
        await until(lambda: running)
        fake.broker.put("T", 0, b"b")
        await until(lambda: seen == ["a", "b"])
        closing = asyncio.create_task(consumer.close())
        await until(lambda: not consumer.process_queues)
        for _ in range(20):  # it had every chance to write
            await asyncio.sleep(0.005)
        slow.clear()
        go_on.set()
        await closing
    assert set(at_once) == {1}
    assert saved(tmp_path / consumer.client_id / "G" / "offsets.json")[0] == 2
