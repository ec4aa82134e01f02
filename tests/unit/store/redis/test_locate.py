"""Store URLs: which servers they stand for, and what an operator is told about them."""

from __future__ import annotations

import pytest
import redis

from rmq_redis.errors import ConfigError, StoreError
from rmq_redis.store.embedded import free_port
from rmq_redis.store.redis.locate import Parameters, from_environment, locator, parse_store_url, sentinels
from rmq_redis.store.redis.url import redact
from rmq_redis.store.registry.routes import RouteStore


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for variables in ("RMQ_REDIS_STORE", "RMQ_REDIS_REGISTRY"):
        for name in ("USERNAME", "PASSWORD", "CA_CERTS", "CERTFILE", "KEYFILE"):
            monkeypatch.delenv(f"{variables}_{name}", raising=False)


@pytest.mark.parametrize(
    ("url", "parameters"),
    [
        ("redis://h:1/2", {"host": "h", "port": 1, "db": 2}),
        ("redis://user:p%40w@h:1", {"host": "h", "port": 1, "username": "user", "password": "p@w"}),
        ("unix:///run/redis.sock?db=3", {"path": "/run/redis.sock", "db": 3}),
        ("rediss://h:1/0?ssl_ca_certs=/ca", {"host": "h", "port": 1, "db": 0, "ssl": True, "ssl_ca_certs": "/ca"}),
    ],
)
async def test_one_server(url: str, parameters: Parameters) -> None:
    where = locator(url)
    assert await where.primary() == parameters
    assert await where.replica() == parameters
    assert not where.finds


def test_sentinels() -> None:
    client, service, parameters = sentinels(
        "rediss+sentinel://user:pw@a:1,b,[::1]:3/main/2?sentinel_password=x&ssl_ca_certs=/ca", "RMQ_REDIS_STORE"
    )
    assert service == "main"
    assert parameters == {"username": "user", "password": "pw", "db": 2, "ssl": True, "ssl_ca_certs": "/ca"}
    asked = [sentinel.connection_pool.connection_kwargs for sentinel in client.sentinels]
    assert [(kwargs["host"], kwargs["port"]) for kwargs in asked] == [("a", 1), ("b", 26379), ("::1", 3)]
    assert asked[0]["password"] == "x"


@pytest.mark.parametrize(
    "url",
    [
        "",
        "http://x",
        "127.0.0.1:6379",
        "redis://h:port/0",
        "redis+sentinel://h:1",
        "redis+sentinel://h:1/main/zero",
        "redis+sentinel://h:1/main/0/1",
        "redis+sentinel://:1/main",
        "redis+sentinel://h:x/main",
        "redis+cluster://h:1/3",
        "redis+other://h:1/3",
        "unix+cluster://h:1",
    ],
)
def test_invalid_store_url_is_a_config_error(url: str) -> None:
    with pytest.raises(ConfigError):
        locator(url)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://h:1/0", "redis://h:1/0"),
        ("redis://:pw@h:1/0", "redis://:***@h:1/0"),
        ("rediss://user:p@w@h:1/0", "rediss://user:***@h:1/0"),
        (
            "redis+sentinel://u:pw@h:1,i:2/main?sentinel_username=s&sentinel_password=x",
            "redis+sentinel://u:***@h:1,i:2/main?sentinel_username=s&sentinel_password=***",
        ),
        ("redis+sentinel://h:1/main?sentinel_password=x", "redis+sentinel://h:1/main?sentinel_password=***"),
    ],
)
def test_passwords_are_not_shown(url: str, shown: str) -> None:
    assert redact(url) == shown
    assert locator(url).shown == shown


def test_an_error_does_not_show_the_password() -> None:
    for url in ("redis://:s3cret@h:port/0", "redis+sentinel://:s3cret@h:1", "http://:s3cret@h"):
        with pytest.raises(ConfigError) as caught:
            locator(url)
        assert "s3cret" not in str(caught.value)


async def test_credentials_missing_in_the_url_come_from_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RMQ_REDIS_STORE_USERNAME", "me")
    monkeypatch.setenv("RMQ_REDIS_STORE_PASSWORD", "secret")
    monkeypatch.setenv("RMQ_REDIS_STORE_CA_CERTS", "/ca")
    assert await locator("redis://h:1").primary() == {
        "host": "h", "port": 1, "username": "me", "password": "secret",
    }  # fmt: skip
    assert (await locator("rediss://:own@h:1").primary())["password"] == "own"
    assert (await locator("rediss://h:1").primary())["ssl_ca_certs"] == "/ca"
    assert sentinels("redis+sentinel://h/main", "RMQ_REDIS_STORE")[2]["password"] == "secret"
    assert from_environment({}, "RMQ_REDIS_REGISTRY") == {}


async def test_unreachable_sentinels_and_cluster_nodes_are_a_store_error() -> None:
    for url in (f"redis+sentinel://127.0.0.1:{free_port()}/main", f"redis+cluster://127.0.0.1:{free_port()}"):
        where = locator(url)
        assert where.finds
        for find in (where.primary, where.replica):
            with pytest.raises(StoreError, match=r"127\.0\.0\.1"):
                await find()


async def test_registry_accepts_store_urls_except_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RMQ_REDIS_REGISTRY_PASSWORD", "secret")
    for url in ("redis://h:1/2", "redis+sentinel://h:1/main/2"):
        registry = RouteStore.from_url(url)
        kwargs = registry._redis.connection_pool.connection_kwargs
        assert (kwargs["password"], kwargs["db"]) == ("secret", 2)
        await registry.close()
    with pytest.raises(ConfigError, match="redis\\+sentinel"):
        RouteStore.from_url("redis+cluster://h:1")
    with pytest.raises(ConfigError, match="registry"):
        RouteStore.from_url("http://h:1")


def test_parse_store_url_keeps_what_a_connection_needs() -> None:
    assert parse_store_url("rediss://h:1/0")["ssl"] is True


class Views:
    """What each node of a cluster says when it is asked: who owns slot 0 and with which configuration epoch."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, **owners: tuple[str, int] | None) -> None:
        self.owners = owners
        self.asked: list[str] = []
        views = self

        class Node:
            def __init__(self, *, host: str, port: int, **_options: object) -> None:
                self._host = host

            async def execute_command(self, command: str) -> object:
                view = views.owners.get(self._host)
                views.asked.append(self._host)
                if view is None:
                    raise redis.ConnectionError("is away")
                owner, epoch = view
                if command == "CLUSTER NODES":
                    return {owner: {"node_id": owner, "epoch": str(epoch)}}
                others = [[name.encode(), 1, name.encode()] for name in views.owners if name != owner]
                return [[0, 99, [owner.encode(), 1, owner.encode()], *others]]

            async def aclose(self) -> None:
                pass

        monkeypatch.setattr("rmq_redis.store.redis.locate.Redis", Node)
        monkeypatch.setattr("rmq_redis.store.redis.locate.key_slot", lambda key: 0)


async def test_cluster_node_with_outdated_view_is_outvoted(monkeypatch: pytest.MonkeyPatch) -> None:
    views = Views(monkeypatch, a=("a", 1), b=("a", 1), c=("a", 1))
    where = locator("redis+cluster://a:1,b:1,c:1")
    assert (await where.primary())["host"] == "a"
    views.owners |= {"b": ("b", 2), "c": ("b", 2)}  # a is cut off from them, not from us
    for _ in range(4):
        assert (await where.primary())["host"] == "b"
    assert {"a", "b", "c"} <= set(views.asked[1:])  # each is asked in its turn
    views.owners |= {"b": None, "c": None}
    with pytest.raises(StoreError, match="a:1: knows only a:1, which was replaced"):
        await where.primary()
    views.owners |= {"a": ("b", 1)}  # the owner is the right one, its epoch has not got round yet
    assert (await where.primary())["host"] == "b"


async def test_cluster_nodes_missing_in_the_url_are_discovered(monkeypatch: pytest.MonkeyPatch) -> None:
    views = Views(monkeypatch, a=("a", 1), b=("a", 1), c=("a", 1))
    where = locator("redis+cluster://a:1")
    assert (await where.primary())["host"] == "a"
    views.owners |= {"a": None, "b": ("b", 2), "c": ("b", 2)}
    assert (await where.primary())["host"] == "b"
    del views.owners["c"]  # was taken out of the cluster
    views.owners["a"] = ("b", 2)
    for _ in range(3):
        assert (await where.replica())["host"] == "a"
    views.asked.clear()
    for _ in range(3):
        await where.primary()
    assert set(views.asked) == {"a", "b"}
