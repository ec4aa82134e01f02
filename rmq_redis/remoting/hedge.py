"""Calls that any one of several servers can answer: one that hangs costs a fraction of the time, not all of it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import NamedTuple

import msgspec

from ..errors import RemotingError, RequestTimeoutError
from ..protocol.command import RemotingCommand
from .client import RemotingClient

MOST_PATIENCE_S = 0.5
"""A server that has not answered by then is not waited for alone: the next one is called as well."""


class Answered(NamedTuple):
    """The first answer, the server that gave it, and those that failed or were slower, with the reason."""

    address: str
    answer: RemotingCommand
    late: dict[str, str]


async def call_one_of(
    remoting: RemotingClient, addresses: Sequence[str], command: RemotingCommand, timeout_s: float
) -> Answered:
    """Sends a request that only reads to the first address, and to the others in turn while there is no answer.

    A server is waited for alone for an equal share of the time, at most ``MOST_PATIENCE_S``; a failing one not at all.

    Args:
        addresses: at least one, the best first.

    Raises:
        RemotingError: none answered within ``timeout_s`` seconds; the text says of each why.
    """
    if len(addresses) == 1:
        try:
            return Answered(addresses[0], await remoting.invoke(addresses[0], command, timeout_s), {})
        except RemotingError as error:
            raise type(error)(f"no NameServer answers ({error})") from None
    loop = asyncio.get_running_loop()
    deadline = loop.time() + timeout_s
    patience_s = min(MOST_PATIENCE_S, timeout_s / (len(addresses) + 1))
    calls: dict[asyncio.Task[RemotingCommand], str] = {}
    late: dict[str, str] = {}
    failure: RemotingError | None = None
    left = list(addresses)
    try:
        while left or calls:
            if left:
                address = left.pop(0)
                remaining_s = max(deadline - loop.time(), 0.001)
                calls[loop.create_task(_invoke(remoting, address, command, remaining_s))] = address
            wait_s = patience_s if left else max(deadline - loop.time(), 0.0) + patience_s
            done, _ = await asyncio.wait(calls, timeout=wait_s, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                address = calls.pop(task)
                try:
                    answer = task.result()
                except RemotingError as error:
                    failure, late[address] = error, str(error)
                    continue
                late |= {other: f"{other} did not answer" for other in calls.values()}
                return Answered(address, answer, late)
            if not left and not done:
                break
    finally:
        for task in calls:
            task.cancel()
    reasons = "; ".join(late.get(address, f"{address} did not answer in {timeout_s:g} s") for address in addresses)
    raise type(failure or RequestTimeoutError(""))(f"no NameServer answers ({reasons})")


async def _invoke(
    remoting: RemotingClient, address: str, command: RemotingCommand, timeout_s: float
) -> RemotingCommand:
    """Its time includes that for opening a connection."""
    try:
        async with asyncio.timeout(timeout_s):
            return await remoting.invoke(address, msgspec.structs.replace(command), timeout_s)
    except TimeoutError:
        raise RequestTimeoutError(f"no answer from {address} in {timeout_s:g} s") from None
