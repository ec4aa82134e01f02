"""Redis URLs: every form, and no part of a password in what is shown or raised."""

from __future__ import annotations

from urllib.parse import quote, unquote

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from rmq_redis.errors import ConfigError
from rmq_redis.store.redis.connection import StoreConnection
from rmq_redis.store.redis.locate import locator, parse_store_url
from rmq_redis.store.redis.url import read_url, redact, server_text, without_credentials
from rmq_redis.store.registry.routes import RouteStore

FORMS = [
    "redis://:{}@h.example:6379/0",
    "redis://user:{}@h.example:6379/0",
    "rediss://user:{}@h.example/0?ssl_ca_certs=/ca.pem",
    "unix://user:{}@/run/redis.sock?db=1",
    "redis+sentinel://user:{}@a:26379,b:26379/main/0",
    "redis+sentinel://a:26379/main/0?sentinel_username=me&sentinel_password={}",
    "rediss+sentinel://user:other@a:1/main?ssl_ca_certs=/ca&sentinel_password={}",
    "redis+cluster://:{}@a:1,b:2",
    "rediss+cluster://user:{}@[::1]:1",
    "redis://h.example:6379/0?password={}",
    "redis://h.example/0?db=2&password={}&username=u",
    "redis://{}@h.example:6379/0",
    "http://user:{}@h.example",
    "redis:/user:{}@h.example/0",
    "redis+other://user:{}@h.example",
    "user:{}@h.example:6379",
    "redis+cluster://user:{}",
    "redis+sentinel://user:{}@a:x/main",
    "redis://user:{}@h.example:port/0",
    "redis://user:{}@h.example:99999/0",
    "redis://user:{}@h.example/zero",
]
ODD = [
    "s3cret/part2",
    "iAITMl7/D127c+VZEl0=",
    "57secret#Wc903z",
    "123456?x=1789012",
    "p4ssw@rd:w0rd#q1w2%2F?&zzz=1",
    "sp4ce here'\"$",
    "ünïc0de漢字",
    "%41%42zzz%",
    "a:b0ndless:c3nturies",
    "[br4ckets]",
    "123456/789012",
    "semi;c0lon,c0mma",
    "new\nl1ne9",
]


def pieces(secret: str) -> set[str]:
    """Every part of a password that is long enough to be told from other text."""
    return {secret[start : start + 4] for start in range(max(1, len(secret) - 3))}


def assert_hidden(secret: str, form: str, text: str) -> None:
    known = form.replace("{}", "").replace("***", "") + _help()
    leaked = [piece for piece in pieces(secret) if piece in text and piece not in known]
    assert not leaked, (leaked, text)


def _help() -> str:
    with pytest.raises(ConfigError) as caught:
        read_url("redis://a b")
    return str(caught.value)


@pytest.mark.parametrize("secret", ODD)
@pytest.mark.parametrize("form", FORMS)
def test_errors_hide_every_part_of_the_password(form: str, secret: str) -> None:
    for written in (secret, quote(secret, safe="")):
        url = form.format(written)
        texts = [redact(url), without_credentials(url)]
        for use in (
            lambda url=url: locator(url, "tag").shown,
            lambda url=url: str(parse_store_url(url).get("host")),
            lambda url=url: RouteStore.from_url(url).address,
        ):
            try:
                texts.append(use())
            except ConfigError as error:
                texts += [str(error), repr(error.__cause__)]
        for text in texts:
            assert_hidden(written, form, text)
            assert_hidden(secret, form, unquote(text))


@given(st.text(st.characters(codec="utf-8"), min_size=4, max_size=30), st.sampled_from(FORMS))
def test_displayed_url_contains_no_password(secret: str, form: str) -> None:
    assume(":" not in secret or not form.startswith("redis://{}@"))  # what precedes the colon is a user name there
    marked = f"Zq7{secret}Xv9"
    for piece in ("Zq7", "Xv9"):
        assert piece not in redact(form.format(marked))
        assert piece not in without_credentials(form.format(marked))


@pytest.mark.parametrize("secret", ODD)
def test_percent_encoded_password_is_decoded(secret: str) -> None:
    assert parse_store_url(f"redis://u:{quote(secret, safe='')}@h:1/0")["password"] == secret


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://h:1/0", "redis://h:1/0"),
        ("redis:///0", "redis:///0"),
        ("unix:///run/redis@1.sock?db=3", "unix:///run/redis@1.sock?db=3"),
        ("unix://u:p@/run/redis.sock", "unix://u:***@/run/redis.sock"),
        ("redis://token@h:1/0", "redis://***@h:1/0"),
        ("redis://h:1/0?password=x&db=2", "redis://h:1/0?password=***&db=2"),
        ("rediss://[::1]:1/0?ssl_ca_certs=/a@b", "rediss://[::1]:1/0?ssl_ca_certs=/a@b"),
        ("redis://u:p/q@h:1/0", "redis://***"),
        ("h:1", "h:1"),
        ("secret word", "***"),
    ],
)
def test_what_is_shown(url: str, shown: str) -> None:
    assert redact(url) == shown


def test_the_error_says_how_to_write_a_password() -> None:
    with pytest.raises(ConfigError, match="percent-encoded"):
        locator("redis://user:s3cret/part2@h/0")


async def test_server_error_that_repeats_auth_arguments_is_cut() -> None:
    answer = "ERR unknown command 'AUTH', with args beginning with: 'user' 's3cret' "
    assert server_text(answer) == "ERR unknown command 'AUTH'"
    assert "s3cret" not in str(StoreConnection()._error(answer))
