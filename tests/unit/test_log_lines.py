"""What clients send cannot forge lines of a server's log."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator

import pytest
from helpers import RawPeer, heartbeat_request, json_frame

from rmq_redis import AsyncAdmin
from rmq_redis.codes import RequestCode
from rmq_redis.runtime import OneLineFormatter, setup_logging
from rmq_redis.testing import running_cluster

FORGED = "x\n2026-01-01 00:00:00,000 ERROR forged\r\x1b[31m\u2028\x85\x00y"


@pytest.fixture
def log() -> Iterator[io.StringIO]:
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(OneLineFormatter("%(asctime)s %(levelname)s %(message)s"))
    root = logging.getLogger()
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    yield stream
    root.removeHandler(handler)
    root.setLevel(level)


def test_message_is_one_line_and_traceback_keeps_its_lines(log: io.StringIO) -> None:
    logger = logging.getLogger("rmq_redis.test")
    logger.info("client %s", FORGED)
    logger.info("Größe 键")
    try:
        raise ValueError("one\ntwo")
    except ValueError:
        logger.exception("failed for %s", FORGED)
    lines = log.getvalue().split("\n")
    assert lines[0].endswith(r"client x\n2026-01-01 00:00:00,000 ERROR forged\r\x1b[31m\u2028\x85\x00y")
    assert lines[1].endswith("Größe 键")
    assert lines[3] == "Traceback (most recent call last):"


def test_processes_log_with_the_one_line_formatter() -> None:
    setup_logging("warning")
    assert isinstance(logging.getLogger().handlers[0].formatter, OneLineFormatter)


async def ask(port: int, code: int, fields: dict[str, str], body: bytes, *, until: int = 2) -> None:
    """Sends a request, and waits until it (1) or the one behind it (2) was answered, or the connection closed."""
    peer = await RawPeer.connect(port)
    await peer.send(json_frame({"code": code, "opaque": 1, "flag": 0, "extFields": fields}, body))
    await peer.send(json_frame({"code": 99_999, "opaque": 2, "flag": 0}))
    try:
        while (await peer.receive()).opaque != until:
            pass
    except EOFError:
        pass
    peer.writer.close()


async def test_no_request_can_forge_a_log_line(log: io.StringIO) -> None:
    """Every request code, with the forged text in every field and as every name of the body."""
    names = ["clientID", "consumerGroup", "group", "topic", "producerGroup", "brokerName", "brokerAddr", "clusterName"]
    names += [
        "key",
        "namespace",
        "value",
        "subscription",
        "expressionType",
        "properties",
        "extraInfo",
        "a",
        "b",
        "queueId",
    ]
    body = {
        "clientID": FORGED,
        "consumerDataSet": [{"groupName": "G", "subscriptionDataSet": [{"topic": FORGED, "subString": FORGED}]}],
        "producerDataSet": [{"groupName": FORGED}],
        "topicConfigTable": {FORGED: {"topicName": FORGED}},
        "groupName": FORGED,
    }
    async with running_cluster() as namesrv_addr:
        async with AsyncAdmin(namesrv_addr) as admin:
            (broker,) = await admin.master_addresses()
        for address in (namesrv_addr, broker):
            for code in RequestCode:
                for fields in (dict.fromkeys(names, FORGED), dict.fromkeys(names, "0") | {"topic": FORGED}):
                    await ask(int(address.rpartition(":")[2]), int(code), fields, json.dumps(body).encode())
        joins = heartbeat_request(FORGED, "G", {"T": "*"}).body
        await ask(int(broker.rpartition(":")[2]), RequestCode.HEART_BEAT, {}, joins, until=1)
    text = log.getvalue()
    assert "ERROR forged" in text
    assert not [line for line in text.splitlines() if line.startswith("2026-01-01 00:00:00,000 ERROR forged")]
    assert "\x1b" not in text
