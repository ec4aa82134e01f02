"""Sends the events of some orders and handles each order's events in their order, in one asyncio program."""

import asyncio

from rmq_redis import AsyncProducer, AsyncPushConsumer, ConsumeFromWhere, Message, MessageExt

TOPIC, ORDERS, STEPS = "example-orders", ["order-1", "order-2", "order-3"], ["created", "paid", "shipped"]


async def main() -> None:
    first = ConsumeFromWhere.CONSUME_FROM_FIRST_OFFSET
    handled: asyncio.Queue[tuple[str, str]] = asyncio.Queue()

    async def handle(message: MessageExt) -> None:
        await handled.put((message.keys, message.text()))

    async with AsyncProducer("example-orders-producer") as producer:
        for step in STEPS:
            for order in ORDERS:  # the same key goes to the same queue, and a queue is handled in order
                await producer.send(Message(TOPIC, step, keys=order), key=order)
        consumer = AsyncPushConsumer("example-orders-consumer", orderly=True, consume_from_where=first)
        consumer.subscribe(TOPIC, "*", handle)
        async with consumer:
            for _ in range(len(STEPS) * len(ORDERS)):
                print(*await handled.get())


asyncio.run(main())
