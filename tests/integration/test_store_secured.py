"""A store that asks for TLS and an ACL user, from the URL or the environment."""

from __future__ import annotations

import asyncio
import ssl
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import redis
from helpers import Connect, StartBroker

from rmq_redis.errors import StoreError
from rmq_redis.store.embedded import EmbeddedServer


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """(certificate, key) of 127.0.0.1, signed by itself."""
    directory = tmp_path_factory.mktemp("tls")
    certificate, key = directory / "cert.pem", directory / "key.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=127.0.0.1"]
    command += ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(certificate)]
    try:
        subprocess.run(command, check=True, capture_output=True)
    except FileNotFoundError:
        pytest.skip("no openssl to make a certificate with")
    return certificate, key


@pytest.fixture
async def secured(
    tmp_path: Path, embedded_server: EmbeddedServer, certificate: tuple[Path, Path]
) -> AsyncIterator[int]:
    """Port of a server behind TLS that knows the user app:secret and nobody else."""
    with EmbeddedServer(tmp_path / "secured") as server:
        with redis.Redis.from_url(server.url) as client:
            client.acl_setuser("app", enabled=True, passwords=["+secret"], keys=["*"], commands=["+@all"])
            client.acl_setuser("default", enabled=False, reset_passwords=True)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*certificate)

        async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            try:
                while data := await reader.read(65536):
                    writer.write(data)
                    await writer.drain()
            except OSError:
                pass
            finally:
                writer.close()

        async def forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            inner_reader, inner_writer = await asyncio.open_connection("127.0.0.1", server.port)
            await asyncio.gather(copy(reader, inner_writer), copy(inner_reader, writer))

        front = await asyncio.start_server(forward, "127.0.0.1", 0, ssl=context)
        yield front.sockets[0].getsockname()[1]
        front.close()


async def test_user_and_tls_are_set_by_the_url(
    secured: int, certificate: tuple[Path, Path], start_broker: StartBroker, connect: Connect
) -> None:
    url = f"rediss://app:secret@127.0.0.1:{secured}/0?ssl_ca_certs={certificate[0]}"
    client = connect(await start_broker(store=url))
    await client.send("T", "a")
    assert await client.pull_all("T") == ["a"]


async def test_user_and_tls_are_set_by_the_environment(
    secured: int,
    certificate: tuple[Path, Path],
    start_broker: StartBroker,
    connect: Connect,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("RMQ_REDIS_STORE_USERNAME", "app")
    monkeypatch.setenv("RMQ_REDIS_STORE_PASSWORD", "secret")
    monkeypatch.setenv("RMQ_REDIS_STORE_CA_CERTS", str(certificate[0]))
    client = connect(await start_broker(store=f"rediss://127.0.0.1:{secured}/0"))
    await client.send("T", "a")
    assert await client.pull_all("T") == ["a"]


async def test_untrusted_certificate_is_refused(secured: int, start_broker: StartBroker) -> None:
    with pytest.raises(StoreError, match="certificate"):
        await start_broker(store=f"rediss://app:secret@127.0.0.1:{secured}/0")


async def test_error_about_a_wrong_user_hides_its_password(
    secured: int, certificate: tuple[Path, Path], start_broker: StartBroker
) -> None:
    with pytest.raises(
        StoreError, match=r"the store at rediss://app:\*\*\*@127.*refused the connection: WRONGPASS"
    ) as caught:
        await start_broker(store=f"rediss://app:wrong@127.0.0.1:{secured}/0?ssl_ca_certs={certificate[0]}")
    assert "wrong@" not in str(caught.value)
