"""TransactionProducer: transactions without an event loop."""

from __future__ import annotations

import functools
from datetime import timedelta
from typing import Any, Unpack

from ...config import ClientConfig
from ...model import Message, TransactionSendResult
from ..core.settings import TransactionProducerOptions
from ..produce.transaction import AsyncTransactionProducer, TransactionListener
from .facade import Renewed
from .producer import Producer


class TransactionProducer(Producer):
    """``AsyncTransactionProducer`` for code without an event loop: the listener's plain functions run in threads."""

    def __init__(
        self,
        group: str,
        listener: TransactionListener,
        namesrv_addr: str | None = None,
        *,
        config: ClientConfig | None = None,
        **options: Unpack[TransactionProducerOptions],
    ) -> None:
        Renewed.__init__(
            self, functools.partial(AsyncTransactionProducer, group, listener, namesrv_addr, config=config, **options)
        )

    @property
    def _async(self) -> AsyncTransactionProducer:
        twin = super()._async
        assert isinstance(twin, AsyncTransactionProducer)
        return twin

    def send_message_in_transaction(
        self, message: Message, arg: Any = None, *, timeout_s: float | timedelta | None = None
    ) -> TransactionSendResult:
        """As ``AsyncTransactionProducer.send_message_in_transaction``."""
        return self._run(self._async.send_message_in_transaction(message, arg, timeout_s=timeout_s))
