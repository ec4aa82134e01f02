"""The same order comes twice, and is billed once. Start a cluster: `rmq-redis up`; marks go to REDIS_URL."""

import asyncio
import os

from rmq_redis import AsyncProducer, AsyncPushConsumer, Message, MessageExt
from rmq_redis.idempotent import idempotent

TOPIC, REDIS_URL = "example-bills", os.environ.get("REDIS_URL", "redis://127.0.0.1:6379/0")
delivered: asyncio.Queue[str] = asyncio.Queue()


@idempotent(REDIS_URL, key=lambda message: message.keys, ttl_s=60.0, lease_s=10.0, wait_s=5.0)
async def bill(message: MessageExt) -> None:
    print("billed", message.text(), flush=True)


async def handle(message: MessageExt) -> None:
    await bill(message)
    await delivered.put(message.text())


async def main() -> None:
    consumer = AsyncPushConsumer("example-bills", consume_from_where="CONSUME_FROM_FIRST_OFFSET")
    consumer.subscribe(TOPIC, "*", handle)
    async with AsyncProducer("example-bills-producer") as producer, consumer:
        for _ in range(2):  # a producer that was not sure whether the first one arrived
            await producer.send(Message(TOPIC, "order-7", keys=f"order-7-{os.getpid()}"))
        for _ in range(2):
            print("delivered", await delivered.get(), flush=True)


asyncio.run(main())
