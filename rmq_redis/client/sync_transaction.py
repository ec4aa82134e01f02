"""TransactionProducer: transactions without an event loop."""

from __future__ import annotations

from typing import Any

from ..config import ClientConfig
from ..model import Message, TransactionSendResult
from .sync import Producer, _Facade
from .transaction import AsyncTransactionProducer, TransactionListener


class TransactionProducer(Producer):
    """``AsyncTransactionProducer`` for code without an event loop: the listener's plain functions run in threads."""

    def __init__(
        self,
        group: str,
        listener: TransactionListener,
        namesrv_addr: str | None = None,
        *,
        config: ClientConfig | None = None,
        **options: Any,
    ) -> None:
        self._async: AsyncTransactionProducer = AsyncTransactionProducer(
            group, listener, namesrv_addr, config=config, **options
        )
        _Facade.__init__(self, self._async)

    def send_message_in_transaction(
        self, message: Message, arg: Any = None, *, timeout_s: float | None = None
    ) -> TransactionSendResult:
        """As ``AsyncTransactionProducer.send_message_in_transaction``."""
        return self._run(self._async.send_message_in_transaction(message, arg, timeout_s=timeout_s))
