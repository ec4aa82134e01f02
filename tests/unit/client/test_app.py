"""App and values, on a NameServer and a broker in this process over fakeredis (``rmq_redis.testing``)."""

from __future__ import annotations

import asyncio
import dataclasses
import sys
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from helpers import eventually

from rmq_redis import (
    App,
    ClientError,
    ConfigError,
    ConsumeResult,
    Message,
    MessageDecodeError,
    MessageExt,
    MessageIllegalLocallyError,
    decode_value,
    testing,
    value_message,
)
from rmq_redis.cli.run import load_app
from rmq_redis.client.core.values import typed_handler
from rmq_redis.model import Message as PlainMessage

pydantic = pytest.importorskip("pydantic")

FIRST = "CONSUME_FROM_FIRST_OFFSET"


class Order(msgspec.Struct):
    order_id: int
    note: str = ""


@dataclasses.dataclass
class Parcel:
    order: Order
    weight_kg: float


class Person(pydantic.BaseModel):  # type: ignore[name-defined, misc]
    name: str
    born: int | None = None


class Trip(msgspec.Struct):
    person: Person


@pytest.fixture
async def namesrv_addr() -> AsyncIterator[str]:
    async with testing.running_cluster() as address:
        yield address


def received(message: PlainMessage, **changes: Any) -> MessageExt:
    assert isinstance(message.body, bytes)
    values: dict[str, Any] = {"body": message.body, "properties": {"UNIQ_KEY": "ID", **message.properties}} | changes
    host = "127.0.0.1:1"
    return MessageExt(
        topic=message.topic,
        flag=0,
        queue_id=0,
        queue_offset=0,
        commit_log_offset=0,
        sys_flag=0,
        born_timestamp_ms=0,
        born_host=host,
        store_timestamp_ms=0,
        store_host=host,
        reconsume_times=0,
        prepared_transaction_offset=0,
        store_size=1,
        **values,
    )


VALUES = [
    (Order(7, "x"), Order),
    (Parcel(Order(7), 1.5), Parcel),
    (Person(name="Ann"), Person),
    (Trip(Person(name="Ann", born=1990)), Trip),
    ([Person(name="Ann"), Person(name="Bob")], list[Person]),
    ({"a": [1, None, "ü"]}, Any),
]


@pytest.mark.parametrize("serializer", ["json", "msgpack"])
@pytest.mark.parametrize(("value", "kind"), VALUES)
def test_values_round_trip(value: Any, kind: Any, serializer: str) -> None:
    message = value_message("T", value, serializer=serializer, tags="x", properties={"p": "q"})
    assert message.properties == {"contentType": f"application/{serializer}", "p": "q"}
    assert message.tags == "x"
    assert decode_value(received(message), kind) == value


def test_body_for_other_languages_is_plain_json() -> None:
    assert value_message("T", Order(7)).body == b'{"order_id":7,"note":""}'
    assert decode_value(received(Message("T", '{"order_id": 7, "more": 1}')), Order) == Order(7)
    java = Message("T", '{"order_id":7}', properties={"contentType": "application/json;charset=UTF-8"})
    assert decode_value(received(java), Order, "msgpack") == Order(7)
    vendor = Message("T", '{"order_id":7}', properties={"contentType": "application/vnd.shop+json"})
    assert decode_value(received(vendor), Order) == Order(7)


@pytest.mark.parametrize(
    ("message", "kind", "text"),
    [
        (Message("T", "no json"), Order, "its 7 bytes are no Order as application/json"),
        (Message("T", '{"order_id": "seven"}'), Order, "are no Order"),
        (Message("T", '{"name": 1}'), Person, "are no Person"),
        (Message("T", b"\xff", properties={"contentType": "application/xml"}), Order, "unknown content type"),
        (value_message("T", {"person": {"name": 3}}, serializer="msgpack"), Trip, "are no Trip"),
    ],
)
def test_decode_error_tells_the_reason(message: Message, kind: Any, text: str) -> None:
    with pytest.raises(MessageDecodeError, match=text) as raised:
        decode_value(received(message), kind)
    assert "message ID of T" in str(raised.value)


def test_encode_error_names_the_value() -> None:
    with pytest.raises(MessageIllegalLocallyError, match=r"topic 'T' cannot be serialized.*object"):
        value_message("T", object())
    with pytest.raises(ConfigError, match="serializer='xml' is unknown; there are: json, msgpack"):
        value_message("T", 1, serializer="xml")


async def test_hook_handles_undecodable_bodies() -> None:
    seen: list[tuple[str, type]] = []

    def on_undecodable(message: MessageExt, error: MessageDecodeError) -> ConsumeResult:
        seen.append((message.text(), type(error)))
        return ConsumeResult.SUCCESS

    async def handle(value: Order) -> None:
        raise AssertionError(value)

    wrong = received(Message("T", "wrong"))
    assert await typed_handler(handle, Order, on_undecodable=on_undecodable)(wrong) == ConsumeResult.SUCCESS
    plain = typed_handler(lambda value: value.missing, Order, on_undecodable=on_undecodable)
    assert plain(wrong) == ConsumeResult.SUCCESS
    assert seen == [("wrong", MessageDecodeError)] * 2
    with pytest.raises(MessageDecodeError):
        await typed_handler(handle, Order)(wrong)


def test_typed_handler_takes_one_or_two_arguments() -> None:
    message = received(value_message("T", Order(7)))
    assert typed_handler(lambda order: order.order_id, Order)(message) == 7
    assert typed_handler(lambda order, got: (order.order_id, got.topic), Order)(message) == (7, "T")
    with pytest.raises(ConfigError, match=r"must take \(value\) or \(value, message\)"):
        typed_handler(lambda: None, Order)


async def test_app_runs_from_startup_to_shutdown(namesrv_addr: str) -> None:
    log: list[Any] = []
    app = App("shop", namesrv_addr)

    @app.on_startup
    async def open_database() -> None:
        log.append("open")
        await app.producer.send_value("created", Order(1), keys="order-1")

    @app.on_shutdown
    def close_database() -> None:
        log.append("close")

    @app.consumer("created", value=Order, consume_from_where=FIRST)
    def bill(order: Order, message: MessageExt) -> None:  # in a thread, and sends on from there
        log.append((order, message.keys, threading.current_thread() is not threading.main_thread()))
        app.wait_for(app.producer.send_value("billed", Parcel(order, 2.5)))

    @app.consumer("billed", value=Parcel, consume_from_where=FIRST)
    async def pack(parcel: Parcel) -> None:
        log.append(parcel)

    with pytest.raises(ClientError, match="does not run"):
        _ = app.producer
    async with app:
        await eventually(lambda: Parcel(Order(1), 2.5) in log)
        with pytest.raises(ClientError, match="event loop"):
            app.wait_for(asyncio.sleep(0))
        with pytest.raises(ClientError, match="started before"):
            await app.start()
    assert log == ["open", (Order(1), "order-1", True), Parcel(Order(1), 2.5), "close"]


async def test_close_waits_for_the_running_handler(namesrv_addr: str) -> None:
    began, finish = asyncio.Event(), asyncio.Event()
    done: list[str] = []
    app = App("shop", namesrv_addr)

    @app.consumer("T", consume_from_where=FIRST)
    async def handle(message: MessageExt) -> None:
        began.set()
        await finish.wait()
        done.append(message.text())

    await app.start()
    await app.producer.send(Message("T", "x"))
    await asyncio.wait_for(began.wait(), 10)
    closing = asyncio.ensure_future(app.close())
    await asyncio.sleep(0)
    assert not closing.done()
    finish.set()
    await closing
    assert done == ["x"]


async def test_failing_startup_closes_opened_clients(namesrv_addr: str) -> None:
    log: list[str] = []
    app = App("shop", namesrv_addr)
    app.on_shutdown(lambda: log.append("first opened, last closed"))

    @app.on_startup
    def fail() -> None:
        raise OSError("no database")

    with pytest.raises(OSError, match="no database"):
        async with app:
            pass
    assert log == ["first opened, last closed"]


def test_handlers_of_a_group_must_have_equal_options() -> None:
    app = App("shop", "127.0.0.1:1")

    @app.consumer("T", orderly=True)
    def first(message: MessageExt) -> None: ...

    def second(message: MessageExt) -> None: ...

    with pytest.raises(ConfigError, match=r"second has the options \{\}, .*first has \{'orderly': True\}"):
        app.consumer("U")(second)
    with pytest.raises(ConfigError, match="both handle topic 'T'; give one of them a group"):
        app.consumer("T", orderly=True)(second)
    with pytest.raises(ConfigError, match="orderley"):
        app.consumer("V", group="other", orderley=True)(second)
    app.consumer("T", group="another")(second)


@pytest.fixture
def modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    name = f"shop_{tmp_path.name}"
    (tmp_path / f"{name}.py").write_text("from rmq_redis import App\nservice = App('shop', '127.0.0.1:1')\nother = 3\n")
    (tmp_path / "broken_app.py").write_text("import a_module_that_nobody_has\n")
    return tmp_path / f"{name}.py"


@pytest.mark.parametrize(
    ("target", "text"),
    [
        ("MODULE:servise", "has no 'servise'; did you mean MODULE:service?"),
        ("MODULE", "has no 'app'; did you mean MODULE:service?"),
        ("MODULE:other", "is a int, not a rmq_redis.App; did you mean MODULE:service?"),
        ("MODULEE:app", "there is no module 'MODULEE' in .*; did you mean MODULE?"),
        ("MODULE.py", "give module:attribute; did you mean MODULE:app?"),
        ("broken_app:app", "broken_app cannot be imported: No module named 'a_module_that_nobody_has'"),
    ],
)
def test_invalid_target_error_suggests_the_nearest(modules: Path, target: str, text: str) -> None:
    with pytest.raises(ConfigError, match=text.replace("MODULE", modules.stem).replace("?", r"\?")):
        load_app(target.replace("MODULE", modules.stem))


def test_target_is_loaded_from_the_current_directory(modules: Path) -> None:
    assert load_app(f"{modules.stem}:service").name == "shop"
