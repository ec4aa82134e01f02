"""A NameServer and a broker in this process over fakeredis: for tests of what is built on the SDK, and for ours.

    async def test_an_order_is_billed():
        async with running_cluster() as namesrv_addr:
            ...

Needs ``pip install fakeredis[lua]``. No Redis and no process is started, and nothing is left behind.
"""

from __future__ import annotations

import asyncio
import importlib
import logging
import threading
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from typing import Any

from .errors import ConfigError

logger = logging.getLogger(__name__)

_POLL_S = 0.005


@contextmanager
def fake_redis() -> Iterator[str]:
    """fakeredis behind a TCP port of this machine; its URL.

    Raises:
        ConfigError: fakeredis is not installed, or not with Lua.
    """
    try:
        importlib.import_module("lupa")  # the Lua of fakeredis, which itself would only fail at the first script
        import redis
        from fakeredis import TcpFakeServer
        from fakeredis._helpers import SimpleError
    except ImportError as error:
        raise ConfigError(
            f"rmq_redis.testing needs fakeredis with Lua: pip install 'fakeredis[lua]' ({error})"
        ) from error

    server = TcpFakeServer(("127.0.0.1", 0))

    class Handler(server.RequestHandlerClass):  # type: ignore[misc, name-defined]
        """Sends an error reply as Redis does; fakeredis puts ERR before every one and closes the connection."""

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

    server.RequestHandlerClass = Handler
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
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
    """A NameServer and a broker on ports that the system chose; the NameServer's address (``namesrv_addr``).

    Other topics are created by the first send to them, and found by consumers up to a second later.

    Args:
        topics: names of topics that are there from the beginning.
        store: Redis URL of a real server to be used instead of fakeredis.
        broker_settings: single fields of ``BrokerConfig``; ``key_prefix`` counts for both.

    Raises:
        ConfigError: fakeredis is not installed, or a setting that cannot be used.
        ClientError: a topic name that is illegal.
    """
    from .broker.broker import Broker
    from .client.admin.admin import AsyncAdmin
    from .config import BrokerConfig, NameServerConfig, check_settings
    from .nameserver.nameserver import NameServer
    from .store.registry.routes import RouteStore

    check_settings(BrokerConfig, broker_settings)
    async with AsyncExitStack() as stack:
        listen: dict[str, Any] = {"listen_host": "127.0.0.1", "listen_port": 0}
        routes = None
        if store is None:
            store = stack.enter_context(fake_redis())
            from fakeredis import FakeAsyncRedis, FakeServer

            routes = RouteStore(FakeAsyncRedis(server=FakeServer()))
        prefix = broker_settings.get("key_prefix", "rmq")
        nameserver = NameServer(NameServerConfig(registry=store, key_prefix=prefix, **listen), store=routes)
        await nameserver.start()
        stack.push_async_callback(nameserver.close)
        namesrv_addr = f"127.0.0.1:{nameserver.port}"
        settings = {"store": store, "namesrv_addr": namesrv_addr, "advertised_host": "127.0.0.1"}
        broker = Broker(BrokerConfig(**(listen | settings | broker_settings)))
        await broker.start()
        stack.push_async_callback(broker.close)
        async with AsyncAdmin(namesrv_addr) as admin:
            while not await admin.master_addresses():
                await asyncio.sleep(_POLL_S)
            for topic in topics:
                await admin.create_topic(topic)
                await admin.wait_for_route(topic)
        yield namesrv_addr
