"""Opening a connection to a Redis server: TLS, log in, database, and the library of functions."""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Callable
from typing import Any

from ...errors import StoreError, StoreFullError, StoreRefusedError
from .connection import StoreConnection
from .functions import LIBRARY_NAME, library
from .locate import Parameters, locator

logger = logging.getLogger(__name__)

_CONNECT_TIMEOUT_S = 5.0
"""For all steps together; a server that is that slow cannot be used."""


async def open_connection(url: str, on_lost: Callable[[StoreConnection], None] | None = None) -> StoreConnection:
    """Connects to the (primary) server that a URL stands for, authenticates, selects the database, loads the functions.

    Raises:
        StoreError: no server there, or it refused one of these steps.
    """
    where = locator(url)
    return await connect(await where.primary(), where.shown, on_lost)


async def connect(
    parameters: Parameters, shown: str, on_lost: Callable[[StoreConnection], None] | None
) -> StoreConnection:
    """As ``open_connection``, to a known place; errors call it ``shown``."""
    loop = asyncio.get_running_loop()
    host, port = parameters.get("host", "localhost"), parameters.get("port", 6379)
    try:
        async with asyncio.timeout(_CONNECT_TIMEOUT_S):
            if parameters.get("path"):
                _, connection = await loop.create_unix_connection(lambda: StoreConnection(on_lost), parameters["path"])
            else:
                _, connection = await loop.create_connection(
                    lambda: StoreConnection(on_lost), host, port, ssl=_tls(parameters)
                )
            try:
                await _greet(connection, parameters)
            except StoreError as error:
                raise type(error)(f"the store at {shown} refused the connection: {error}") from None
    except ssl.SSLError as error:
        raise StoreRefusedError(f"the store at {shown}: TLS failed: {error}") from None
    except (OSError, TimeoutError) as error:
        where = parameters.get("path") or f"{host}:{port}"
        raise StoreError(f"cannot reach the store at {shown} ({where}): {str(error) or 'no answer in time'}") from None
    return connection


async def _greet(connection: StoreConnection, parameters: dict[str, Any]) -> None:
    try:
        if parameters.get("password"):
            user = [parameters["username"]] if parameters.get("username") else []
            await connection.execute("AUTH", *user, parameters["password"])
        else:  # of a password that is missing a server says NOAUTH; of a text as long as the library, nothing so clear
            await connection.execute("PING")
        if parameters.get("db"):
            await connection.execute("SELECT", parameters["db"])
        if parameters.get("readonly"):
            await connection.execute("READONLY")
        try:
            await connection.execute("FUNCTION", "LOAD", "REPLACE", library())
            connection.is_primary = True
        except StoreFullError:  # a full server takes no library: it has this one already, or EVAL does the same
            known = await connection.execute("FUNCTION", "LIST", "LIBRARYNAME", LIBRARY_NAME)
            connection.uses_functions = bool(known)
            connection.is_primary = True
        except StoreRefusedError as error:
            connection.uses_functions = False  # EVAL does the same
            connection.is_primary = True
            if "unknown command" not in str(error):
                logger.warning("store: FUNCTION is refused, EVAL is used instead, which costs more: %s", error)
        except StoreError as error:
            text = str(error).lower()
            if "readonly" not in text and "read only" not in text:
                raise  # else it is a replica, which has them from its primary
    except BaseException:  # also on a timeout
        connection.close()
        raise


def _tls(parameters: Parameters) -> ssl.SSLContext | None:
    if not parameters.get("ssl"):
        return None
    try:
        context = ssl.create_default_context(cafile=parameters.get("ssl_ca_certs"))
        if parameters.get("ssl_certfile"):
            context.load_cert_chain(parameters["ssl_certfile"], parameters.get("ssl_keyfile"))
    except OSError as error:
        raise StoreError(f"the TLS files of the store cannot be used: {error}") from None
    if parameters.get("ssl_cert_reqs") in ("none", "optional"):
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    elif str(parameters.get("ssl_check_hostname", True)).lower() in ("false", "0", "no"):
        context.check_hostname = False
    return context
