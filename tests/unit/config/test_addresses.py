"""NameServer lists: what is accepted, and what is refused at once by SDK, CLI and broker."""

from __future__ import annotations

import sys

import pytest

from rmq_redis import ConfigError, Producer, cli
from rmq_redis.broker.broker import Broker
from rmq_redis.config import BrokerConfig, parse_addresses


@pytest.mark.parametrize(
    ("text", "addresses"),
    [
        ("ns-1", ["ns-1:9876"]),
        ("ns-1:9876,ns-2:9877", ["ns-1:9876", "ns-2:9877"]),
        (" a:1 ; ; b:2 ", ["a:1", "b:2"]),
        ("a:1\n", ["a:1"]),
        ("a:1\tb:2;a:1", ["a:1", "b:2"]),
        ("http://127.0.0.1:9876", ["127.0.0.1:9876"]),
        ("http://ns.example.com/;http://b:80/", ["ns.example.com:9876", "b:80"]),
        ("127.0.0.1:9876/", ["127.0.0.1:9876"]),
        ("[::1]:9876", ["[::1]:9876"]),
        ("[::1]", ["[::1]:9876"]),
        ("ns.example.com.:9876", ["ns.example.com.:9876"]),
    ],
)
def test_address_lists_are_parsed(text: str, addresses: list[str]) -> None:
    assert parse_addresses(text) == addresses


REFUSED = [
    " ; ",
    "::1",
    "::1:9876",
    "a:99999",
    "a:0",
    "a:b",
    "a:",
    ":9876",
    "a:\u0661",
    "https://a:1",
    "rocketmq://a:1",
    "redis://a:1",
    "http://",
    "http://http://a:1",
    "http://user:secret@a:1",
    "a:1/path",
    "a b:c",
    "a..b:1",
    "a\x1b[31m:1",
    "a\x00:1",
    "a?x:1",
]


@pytest.mark.parametrize("text", REFUSED)
def test_malformed_address_is_refused_at_once(
    text: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ConfigError):
        parse_addresses(text)
    with pytest.raises(ConfigError):
        Broker(BrokerConfig(store="redis://h:1/0", namesrv_addr=text))
    with pytest.raises(ConfigError), Producer("g", text):
        pass
    if "\x00" in text:  # no argument of a command can have it
        return
    monkeypatch.setattr(sys, "argv", ["rmq-redis", "topic", "list", "--namesrv", text])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_error_shows_how_to_write_ipv6() -> None:
    with pytest.raises(ConfigError, match=r"write \[::1\]:9876"):
        parse_addresses("::1")
