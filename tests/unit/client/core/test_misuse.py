"""What a user gets wrong is said at once, with the value and what would do; nothing is sent that was not meant."""

from __future__ import annotations

import copy
import dataclasses
import inspect
import pickle
import re
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import pytest
from client_fakes import cluster, sends

import rmq_redis
from rmq_redis import (
    Admin,
    App,
    AsyncProducer,
    AsyncPushConsumer,
    AsyncSimpleConsumer,
    ClientConfig,
    Message,
    Producer,
    PullConsumer,
    PushConsumer,
    SimpleConsumer,
    TransactionProducer,
    errors,
    testing,
)
from rmq_redis.client.produce.checks import check_flag, check_handle
from rmq_redis.client.produce.outgoing import property_text
from rmq_redis.codes import ResponseCode
from rmq_redis.errors import ClientError, ConfigError, MessageIllegalLocallyError

ADDRESS = "127.0.0.1:1"


@pytest.mark.parametrize(
    ("message", "text"),
    [
        (Message("T", b"x", tags=["paid"]), r"tags \(one tag\) must be str, not \['paid'\]"),  # type: ignore[arg-type]
        (Message("T", b"x", properties={"retries": 0}), "property 'retries' must be str, not 0"),  # type: ignore[dict-item]
        (Message("T", b"x", properties={5: "x"}), "the name of a property must be str, not 5"),  # type: ignore[dict-item]
        (Message("T", b"x", properties={b"a": "x"}), "the name of a property must be str, not b'a'"),  # type: ignore[dict-item]
    ],
)
def test_non_string_message_fields_are_refused(message: Message, text: str) -> None:
    with pytest.raises(MessageIllegalLocallyError, match=text):
        property_text(message, None, "id")


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"sendtimeout": 3}, "AsyncProducer has no option 'sendtimeout'; did you mean send_timeout_s"),
        ({"send_timeout_s": "3"}, "send_timeout_s='3' is a str, not a float"),
        ({"retry_times_when_send_failed": 1.5}, "retry_times_when_send_failed=1.5 is a float, not an int"),
        ({"zone_mode": 1}, "zone_mode=1 is an int, not a bool"),
        ({"send_timeout_s": True}, "send_timeout_s=True is a bool, not a float"),
    ],
)
@pytest.mark.parametrize("config", [None, ClientConfig()])
def test_settings_of_the_wrong_name_or_type_are_refused(
    settings: dict[str, Any], text: str, config: ClientConfig | None
) -> None:
    with pytest.raises(ConfigError, match=text):
        AsyncProducer("g", ADDRESS, config=config, **settings)


@pytest.mark.parametrize(
    "name",
    [field.name for field in dataclasses.fields(ClientConfig) if type(field.default) in (int, float)],
)
def test_number_out_of_its_range_is_refused(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    settings: dict[str, Any] = {name: -1}
    text = f"{name} is -1; it must be (above|at least) [01] \\(default: "
    for make in (
        lambda: AsyncProducer("g", ADDRESS, **settings),
        lambda: AsyncPushConsumer("g", ADDRESS, config=ClientConfig(**settings)),
        lambda: App("a", ADDRESS, **settings),
    ):
        with pytest.raises(ConfigError, match=text):
            make()
    monkeypatch.setenv(f"RMQ_REDIS_{name.upper()}", "-1")
    with pytest.raises(ConfigError, match=f"{name} is -1"):
        Admin(ADDRESS)


@pytest.mark.parametrize("name", ["send_timeout_s", "rebalance_interval_s", "max_message_bytes"])
def test_zero_is_refused_where_a_setting_must_be_positive(name: str) -> None:
    settings: dict[str, Any] = {name: 0}
    with pytest.raises(ConfigError, match=f"{name} is 0; it must be"):
        AsyncProducer("g", ADDRESS, **settings)
    AsyncProducer("g", ADDRESS, retry_times_when_send_failed=0, compress_over_bytes=0, broker_warm_up_s=0)


def test_config_with_a_value_of_the_wrong_type_is_refused() -> None:
    config = ClientConfig(send_timeout_s="3")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="send_timeout_s='3' is a str, not a float"):
        AsyncProducer("g", ADDRESS, config=config)


async def test_unknown_choice_error_lists_the_choices() -> None:
    with pytest.raises(ConfigError, match=r"message_model='all' is unknown; there are: BROADCASTING, CLUSTERING"):
        AsyncPushConsumer("g", ADDRESS, message_model="all")
    for kind in (AsyncPushConsumer, AsyncSimpleConsumer):
        with pytest.raises(ConfigError, match="consume_from_where='FIRST' is unknown; there are: CONSUME_FROM_LAST_"):
            kind("g", ADDRESS, consume_from_where="FIRST")


async def test_invalid_subscriptions_are_refused() -> None:
    consumer = AsyncPushConsumer("g", ADDRESS)
    with pytest.raises(ClientError, match="expression_type='SQL' is unknown; there are: TAG, SQL92"):
        consumer.subscribe("T", "a = 1", print, expression_type="SQL")
    with pytest.raises(ClientError, match="cannot be called with a message"):
        consumer.subscribe("T", "*", lambda: None)
    consumer.subscribe("T", "*", print)
    consumer.subscribe("T", "*", lambda message, more=1: None)
    assert [subscription.topic for subscription in consumer.subscriptions] == ["T"]


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: AsyncPushConsumer("g", orderd=True), "AsyncPushConsumer has no option 'orderd'; did you mean orderly"),
        (lambda: PushConsumer("g", concurency=1), "no option 'concurency'; did you mean concurrency"),
        (lambda: Producer("g", send_timout_s=1), "no option 'send_timout_s'; did you mean send_timeout_s"),
        (lambda: Producer("g", serialiser="json"), "no option 'serialiser'; did you mean serializer"),
        (lambda: TransactionProducer("g", object(), topic="T"), "no option 'topic'; did you mean topics"),  # type: ignore[arg-type]
        (lambda: PullConsumer("g", consume_from="x"), "no option 'consume_from'; did you mean consume_from_where"),
        (lambda: SimpleConsumer("g", fiffo=True), "no option 'fiffo'; did you mean fifo"),
        (
            lambda: Admin(request_timeout=1),
            "AsyncAdmin has no option 'request_timeout'; did you mean request_timeout_s",
        ),
        (lambda: App("a", interceptor=[]), "App has no option 'interceptor'; did you mean interceptors"),
        (lambda: App("a").consumer("T", orderd=True)(print), "no option 'orderd'; did you mean orderly"),
        (lambda: App("a").consumer("T", plugins=None)(print), "no option 'plugins'"),
    ],
)
def test_unknown_option_error_suggests_the_nearest(make: Callable[[], Any], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        make()


async def test_unknown_test_cluster_setting_error_suggests_the_nearest() -> None:
    with pytest.raises(ConfigError, match="BrokerConfig has no setting 'lease'; did you mean lease_s"):
        async with testing.running_cluster(lease=1):
            pass


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"concurrency": 1.5}, "concurrency=1.5 is a float, not an int"),
        ({"concurrency": None}, "concurrency=None is None, not an int"),
        ({"pull_batch_size": "32"}, "pull_batch_size='32' is a str, not an int"),
        ({"orderly": "yes"}, "orderly='yes' is a str, not a bool"),
        ({"max_reconsume_times": "3"}, "max_reconsume_times='3' is a str, not an int"),
        ({"consume_timeout_s": float("nan")}, "consume_timeout_s=nan is not a number"),
        ({"await_termination_s": timedelta(1)}, "await_termination_s=.* is a timedelta, not a float"),
        ({"send_timeout_s": float("nan")}, "send_timeout_s=nan is not a number"),
        ({"config": {"zone": "a"}}, "config={'zone': 'a'} is no ClientConfig"),
    ],
)
def test_options_of_the_wrong_type_are_refused_at_once(options: dict[str, Any], text: str) -> None:
    for kind in (AsyncPushConsumer, PushConsumer):
        with pytest.raises(ConfigError, match=text):
            kind("g", ADDRESS, **options)
    AsyncPushConsumer("g", ADDRESS, max_reconsume_times=None, consume_timeout_s=10)


@pytest.mark.parametrize("group", [5, None, ["g"]])
def test_non_string_group_is_refused(group: Any) -> None:
    with pytest.raises(ConfigError, match="group must be str"):
        Producer(group)


# --- messages ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("delay_s", "delay_ms"),
    [(1, "1000"), (0.0001, "1"), (2.5, "2500"), (timedelta(minutes=1), "60000"), (timedelta(milliseconds=2), "2")],
)
def test_delay_is_a_number_of_seconds_or_a_timedelta(delay_s: Any, delay_ms: str) -> None:
    assert Message("T", "x").with_delay_s(delay_s).properties == {"TIMER_DELAY_MS": delay_ms}


@pytest.mark.parametrize("moment", [1764300000000, 1764300000000.4, True + 1764299999999.0])
def test_delivery_time_may_be_a_float(moment: float) -> None:
    assert Message("T", "x").with_deliver_at_ms(moment).properties == {"TIMER_DELIVER_MS": "1764300000000"}


_NAN, _INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    "make",
    [
        *(lambda value=value: Message("T", "x").with_delay_s(value) for value in (_NAN, _INF, -_INF, "5", None, True)),
        *(lambda value=value: Message("T", "x").with_delay_s(value) for value in (timedelta(0), timedelta(-1), 1e300)),
        *(lambda value=value: Message("T", "x").with_deliver_at_ms(value) for value in (_NAN, _INF, -1, "5", None)),
        lambda: Message("T", "x").with_deliver_at_ms(datetime.now()),  # type: ignore[arg-type]
        *(lambda value=value: Message("T", "x").with_delay_level(value) for value in (0, 19, "3", None, 2.5, _NAN)),
        *(lambda value=value: Message(value, "x") for value in (5, None, ["T"])),
        *(lambda value=value: Message("T", "x", keys=value) for value in (5, None, [1, 2])),
        *(lambda value=value: Message("T", "x", properties=value) for value in (5, None, "ab", [("a", "b")])),
        *(lambda value=value: check_flag(value) for value in (2**31, 2**40, -(2**31) - 1, "x", None, 1.5, _NAN)),
        *(lambda value=value: check_handle("T", value) for value in (None, 5, b"x", "", "no handle")),
    ],
)
def test_unsendable_message_is_refused_with_a_client_error(make: Callable[[], Any]) -> None:
    with pytest.raises(MessageIllegalLocallyError) as caught:
        make()
    assert isinstance(caught.value, ValueError)  # what with_delay_s and with_delay_level raised before


async def test_flags_and_handles_are_checked_before_sending() -> None:
    async with cluster() as fake:
        producer = AsyncProducer("PG", config=fake.config())
        async with producer:
            for flag in (2**31, "x", None):
                wrong = Message("T", "x", flag=flag)  # type: ignore[arg-type]
                for send in (producer.send, producer.send_oneway, producer.request):
                    with pytest.raises(MessageIllegalLocallyError, match="flag="):
                        await send(wrong)
                with pytest.raises(MessageIllegalLocallyError, match="flag="):
                    await producer.send_batch([Message("T", "x"), wrong])
            with pytest.raises(MessageIllegalLocallyError, match="recall_handle must be str"):
                await producer.recall("T", None)  # type: ignore[arg-type]
            for timeout_s in ("3", _NAN, True):
                with pytest.raises(ClientError, match=r"timeout_s: .* is not seconds or a timedelta"):
                    await producer.send(Message("T", "x"), timeout_s=timeout_s)  # type: ignore[arg-type]
            assert not sends(fake.broker)
            for flag in (-(2**31), 2**31 - 1):
                await producer.send(Message("T", "x", flag=flag))
        assert [header.flag for header in sends(fake.broker)] == [-(2**31), 2**31 - 1]


async def test_timeout_may_be_a_timedelta() -> None:
    minute = timedelta(minutes=1)
    async with cluster() as fake, AsyncProducer("PG", config=fake.config()) as producer:
        await producer.send(Message("T", "x"), timeout_s=minute)
        await producer.send_batch([Message("T", "x")], timeout_s=minute)
        await producer.send_value("T", 1, timeout_s=minute)
        assert len(sends(fake.broker)) == 2  # and a batch


async def test_invalid_queue_or_selector_is_refused() -> None:
    wrong: list[dict[str, Any]] = [
        {"queue": "broker-a:0"},
        {"queue": []},
        {"selector": 3},
        {"selector": lambda _queues, _message, _key: None},
    ]
    async with cluster() as fake:
        producer = AsyncProducer("PG", config=fake.config())
        async with producer:
            for arguments in wrong:
                for send in (producer.send, producer.send_oneway):
                    with pytest.raises(ClientError, match=r"must be a MessageQueue|is not a function"):
                        await send(Message("T", "x"), **arguments)
        assert not sends(fake.broker)


@pytest.mark.parametrize("wrong", ["text", b"x", None])
async def test_non_message_is_refused_with_its_value(wrong: Any) -> None:
    async with cluster() as fake, AsyncProducer("PG", config=fake.config()) as producer:
        for send in (producer.send, producer.send_oneway, producer.request):
            with pytest.raises(MessageIllegalLocallyError, match=re.escape(f"must be a Message, not {wrong!r}")):
                await send(wrong)
        assert not sends(fake.broker)


@pytest.mark.parametrize("keys", [3, b"x", [1], None])
async def test_non_string_keys_of_a_value_are_refused(keys: Any) -> None:
    async with cluster() as fake, AsyncProducer("PG", config=fake.config()) as producer:
        with pytest.raises(MessageIllegalLocallyError, match="keys must be str or a list of str, not "):
            await producer.send_value("T", 1, keys=keys)
        assert not sends(fake.broker)


async def test_batch_must_be_a_list_of_messages() -> None:
    async with cluster() as fake, AsyncProducer("PG", config=fake.config()) as producer:
        for wrong in (Message("T", "x"), [1], [Message("T", "x"), None], "ab", 3):
            with pytest.raises(MessageIllegalLocallyError, match="list of messages"):
                await producer.send_batch(wrong)  # type: ignore[arg-type]
        assert not sends(fake.broker)


def test_malformed_unicode_body_and_non_integer_level_are_refused() -> None:
    with pytest.raises(MessageIllegalLocallyError, match="UTF-8"):
        Message("T", "\udcff")
    with pytest.raises(MessageIllegalLocallyError, match="delay level True"):
        Message("T", "x").with_delay_level(True)


async def test_simple_consumer_durations_are_checked() -> None:
    async with cluster() as fake:
        consumer = AsyncSimpleConsumer("G", config=fake.config())
        consumer.subscribe("T")
        async with consumer:
            assert await consumer.receive(1, timedelta(seconds=30), timedelta(0)) == []
            for arguments in (("x",), (1.5,), (1, "x"), (1, _NAN), (1, 30, None), (1, 30, _NAN)):
                with pytest.raises(ClientError):
                    await consumer.receive(*arguments)  # type: ignore[arg-type]
        with pytest.raises(ClientError, match="the expression must be str, not None"):
            consumer.subscribe("T", None)  # type: ignore[arg-type]


# --- pickle ------------------------------------------------------------------------------------------------------

_ERRORS = [kind for kind in vars(errors).values() if inspect.isclass(kind) and issubclass(kind, errors.RmqError)]


@pytest.mark.parametrize("kind", _ERRORS)
def test_errors_survive_pickle_and_copy(kind: type[errors.RmqError]) -> None:
    if issubclass(kind, errors.ResponseError):
        error: errors.RmqError = kind("why", code=77, address="1.2.3.4:5")
    elif issubclass(kind, errors.StoreUnconfirmedError):
        error = kind("why", ResponseCode.SLAVE_NOT_AVAILABLE)
    else:
        error = kind("why")
    error.add_note("a note")
    for found in (pickle.loads(pickle.dumps(error)), copy.copy(error), copy.deepcopy(error)):
        assert (type(found), str(found), vars(found)) == (kind, str(error), vars(error))


@pytest.mark.parametrize(
    "name", [name for name in rmq_redis.__all__ if name.endswith(("Producer", "Consumer", "Admin"))]
)
def test_pickling_a_client_is_a_clear_error(name: str) -> None:
    kind = getattr(rmq_redis, name)
    arguments: tuple[Any, ...] = () if name.endswith("Admin") else ("g",)
    client = kind(*arguments, object()) if "Transaction" in name else kind(*arguments)
    for copied in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError, match=f"a {name} cannot be pickled or copied: create one in the process"):
            copied(client)
