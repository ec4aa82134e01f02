"""A NameServer and a broker in this process over fakeredis, for tests of applications.

    async def test_an_order_is_billed():
        async with running_cluster() as namesrv_addr:
            ...

Needs ``pip install fakeredis[lua]``. It starts neither a Redis server nor a process, and leaves nothing behind.
"""

from __future__ import annotations

import asyncio
import importlib
import threading
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Any

from .errors import ConfigError

if TYPE_CHECKING:
    from .nameserver.nameserver import NameServer

_LISTEN: dict[str, Any] = {"listen_host": "127.0.0.1", "listen_port": 0}

_POLL_S = 0.005
"""A cluster is ready after some 10 ms, and a test should not wait longer than that."""
_SHUTDOWN_POLL_S = 0.05
"""How late the fake server notices that its test has ended."""


def _sending_errors_as_redis(handler_class: Any) -> Any:
    """A handler of fakeredis that sends error replies as Redis does.

    fakeredis puts ERR before each of them, and closes the connection.
    """
    import redis
    from fakeredis._helpers import SimpleError

    class Handler(handler_class):  # type: ignore[misc]
        def setup(self) -> None:
            super().setup()
            read = self.current_client.read_response

            def read_response(**options: Any) -> Any:
                try:
                    return read(**options)
                except redis.ResponseError as error:
                    text = str(error)
                    return SimpleError(text if text.partition(" ")[0].isupper() else f"ERR {text}")

            self.current_client.read_response = read_response

    return Handler


@contextmanager
def fake_redis() -> Iterator[str]:
    """fakeredis behind a TCP port of this machine; its URL.

    Raises:
        ConfigError: fakeredis is not installed, or not with Lua.
    """
    try:
        importlib.import_module("lupa")  # the Lua of fakeredis, which itself would only fail at the first script
        from fakeredis import TcpFakeServer
    except ImportError as error:
        raise ConfigError(
            f"rmq_redis.testing needs fakeredis with Lua: pip install 'fakeredis[lua]' ({error})"
        ) from error

    server = TcpFakeServer(("127.0.0.1", 0))
    server.RequestHandlerClass = _sending_errors_as_redis(server.RequestHandlerClass)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(_SHUTDOWN_POLL_S,), daemon=True)
    thread.start()
    try:
        yield f"redis://127.0.0.1:{server.server_address[1]}/0"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@asynccontextmanager
async def running_cluster(
    *, store: str | None = None, topics: Iterable[str] = (), **broker_settings: Any
) -> AsyncIterator[str]:
    """A NameServer and a broker on ports that the system chose; yields the NameServer's address (``namesrv_addr``).

    The first send to another topic creates it; consumers find it up to a second later.

    Args:
        store: Redis URL of a real server to use instead of fakeredis.
        topics: names of topics to create at start.
        broker_settings: single fields of ``BrokerConfig``; ``key_prefix`` is also the NameServer's.

    Raises:
        ConfigError: fakeredis is not installed, or a setting that cannot be used.
        ClientError: a topic name that is illegal.
    """
    from .broker.broker import Broker
    from .config import BrokerConfig, check_settings

    check_settings(BrokerConfig, broker_settings)
    async with AsyncExitStack() as stack:
        url = stack.enter_context(fake_redis()) if store is None else store
        nameserver = _nameserver(url, broker_settings.get("key_prefix", "rmq"), is_fake=store is None)
        await nameserver.start()
        stack.push_async_callback(nameserver.close)
        namesrv_addr = f"127.0.0.1:{nameserver.port}"
        settings = {"store": url, "namesrv_addr": namesrv_addr, "advertised_host": "127.0.0.1"}
        broker = Broker(BrokerConfig(**(_LISTEN | settings | broker_settings)))
        await broker.start()
        stack.push_async_callback(broker.close)
        await _create_topics(namesrv_addr, topics)
        yield namesrv_addr


def _nameserver(registry: str, key_prefix: str, *, is_fake: bool) -> NameServer:
    from .config import NameServerConfig
    from .nameserver.nameserver import NameServer
    from .store.registry.routes import RouteStore

    routes = None
    if is_fake:
        from fakeredis import FakeAsyncRedis, FakeServer

        routes = RouteStore(FakeAsyncRedis(server=FakeServer()))
    return NameServer(NameServerConfig(registry=registry, key_prefix=key_prefix, **_LISTEN), store=routes)


async def _create_topics(namesrv_addr: str, topics: Iterable[str]) -> None:
    """Waits for a broker, and creates topics."""
    from .client.admin.admin import AsyncAdmin

    async with AsyncAdmin(namesrv_addr) as admin:
        while not await admin.master_addresses():
            await asyncio.sleep(_POLL_S)
        for topic in topics:
            await admin.create_topic(topic)
            await admin.wait_for_route(topic)
