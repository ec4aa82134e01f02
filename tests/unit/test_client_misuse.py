"""What a user gets wrong is said at once, with the value and what would do; nothing is sent that was not meant."""

from __future__ import annotations

from typing import Any

import pytest

from rmq_redis import AsyncProducer, AsyncPushConsumer, AsyncSimpleConsumer, ClientConfig, Message
from rmq_redis.client.sending import property_text
from rmq_redis.errors import ClientError, ConfigError, MessageIllegalLocallyError

ADDRESS = "127.0.0.1:1"


@pytest.mark.parametrize(
    ("message", "text"),
    [
        (Message("T", b"x", tags=["paid"]), r"tags \(one tag\) must be str, not \['paid'\]"),  # type: ignore[arg-type]
        (Message("T", b"x", properties={"retries": 0}), "property 'retries' must be str, not 0"),  # type: ignore[dict-item]
    ],
)
def test_what_is_no_text_is_not_written_as_one(message: Message, text: str) -> None:
    with pytest.raises(MessageIllegalLocallyError, match=text):
        property_text(message, None, "id")


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"sendtimeout": 3}, "ClientConfig has no setting 'sendtimeout'; did you mean send_timeout_s"),
        ({"send_timeout_s": "3"}, "send_timeout_s='3' is a str, not a float"),
        ({"retry_times_when_send_failed": 1.5}, "retry_times_when_send_failed=1.5 is a float, not an int"),
        ({"zone_mode": 1}, "zone_mode=1 is an int, not a bool"),
        ({"send_timeout_s": True}, "send_timeout_s=True is a bool, not a float"),
    ],
)
@pytest.mark.parametrize("config", [None, ClientConfig()])
def test_settings_of_the_wrong_name_or_type(settings: dict[str, Any], text: str, config: ClientConfig | None) -> None:
    with pytest.raises(ConfigError, match=text):
        AsyncProducer("g", ADDRESS, config=config, **settings)


async def test_choices_are_listed() -> None:
    with pytest.raises(ConfigError, match=r"message_model='all' is unknown; there are: BROADCASTING, CLUSTERING"):
        AsyncPushConsumer("g", ADDRESS, message_model="all")
    for kind in (AsyncPushConsumer, AsyncSimpleConsumer):
        with pytest.raises(ConfigError, match="consume_from_where='FIRST' is unknown; there are: CONSUME_FROM_LAST_"):
            kind("g", ADDRESS, consume_from_where="FIRST")


async def test_subscriptions_that_cannot_work() -> None:
    consumer = AsyncPushConsumer("g", ADDRESS)
    with pytest.raises(ClientError, match="expression_type='SQL' is unknown; there are: TAG, SQL92"):
        consumer.subscribe("T", "a = 1", print, expression_type="SQL")
    with pytest.raises(ClientError, match="cannot be called with a message"):
        consumer.subscribe("T", "*", lambda: None)
    consumer.subscribe("T", "*", print)
    consumer.subscribe("T", "*", lambda message, more=1: None)
    assert [subscription.topic for subscription in consumer.subscriptions] == ["T"]
