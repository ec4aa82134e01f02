"""The clients of a run, as processes: ``python -m rmq_redis.labs.chaos.worker MODE NAME NAMESRV TOPIC FILE``.

MODE is send, send-in-order or consume. They print ``ready`` and go on until SIGTERM; what they see goes to FILE.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Coroutine
from functools import partial
from pathlib import Path
from typing import Any

from ...client.consume.push import AsyncPushConsumer
from ...client.core.settings import ClientSettings
from ...client.produce.producer import AsyncProducer
from ...errors import RmqError
from ...model import ConsumeFromWhere, Message, MessageExt, SendResult
from ...runtime import run, stop_signals
from .history import Acked, Delivered, Failed, HistoryWriter

GROUP = "chaos-consumers"
_SENDERS = 8
"""Even, as every second one sends with a key."""
_PAUSE_S = 0.02
"""At most 400 messages/s per worker: faults are tested here, not throughput."""
_TIMEOUT_S = 3.0


def acked(sender: str, body: str, result: SendResult) -> Acked:
    queue = result.queue
    return Acked(sender, body, queue.broker_name, queue.queue_id, result.queue_offset, result.status.value)


async def send(name: str, namesrv_addr: str, topic: str, history: HistoryWriter, *, strict_order: bool = False) -> None:
    """Several senders, each with one send at a time; half of them with a key, in strict order all of them."""
    with stop_signals() as stop:
        settings: ClientSettings = {"poll_name_server_interval_s": 2.0, "strict_order": strict_order}
        async with AsyncProducer("chaos-producers", namesrv_addr, **settings) as producer:

            async def keep_sending(sender: str, key: str | None) -> None:
                number = 0
                while not stop.is_set():
                    number += 1
                    body = f"{sender}-{number}"
                    try:
                        result = await producer.send(Message(topic, body), key=key, timeout_s=_TIMEOUT_S)
                        history.write(acked(sender, body, result))
                    except RmqError as error:
                        history.write(Failed(sender, body, str(error)[:200]))
                    await asyncio.sleep(_PAUSE_S)

            names = [f"{name}-{i}" for i in range(_SENDERS)]
            print("ready", flush=True)
            await asyncio.gather(*(keep_sending(n, n if i % 2 or strict_order else None) for i, n in enumerate(names)))


async def consume(name: str, namesrv_addr: str, topic: str, history: HistoryWriter) -> None:
    """An orderly member of one group."""

    async def take(message: MessageExt) -> None:
        history.write(Delivered(name, message.text(), message.broker_name, message.queue_id, message.queue_offset))

    consumer = AsyncPushConsumer(
        GROUP,
        namesrv_addr,
        orderly=True,
        consume_from_where=ConsumeFromWhere.CONSUME_FROM_FIRST_OFFSET,
        poll_name_server_interval_s=2.0,
        rebalance_interval_s=2.0,
        persist_consumer_offset_interval_s=1.0,
    )
    consumer.subscribe(topic, "*", take)
    with stop_signals() as stop:
        async with consumer:
            print("ready", flush=True)
            await stop.wait()


def main() -> None:
    mode, name, namesrv_addr, topic, path = sys.argv[1:]
    history = HistoryWriter(Path(path))
    modes: dict[str, Callable[[str, str, str, HistoryWriter], Coroutine[Any, Any, None]]] = {
        "send": send,
        "send-in-order": partial(send, strict_order=True),
        "consume": consume,
    }
    run(modes[mode](name, namesrv_addr, topic, history))


if __name__ == "__main__":
    main()
