"""Asks for prices by message and waits for the answers. Start a cluster first: `rmq-redis up`."""

import asyncio

from rmq_redis import AsyncAdmin, AsyncProducer, AsyncPushConsumer, Message, MessageExt, ReplyTimeoutError

TOPIC, PRICES = "example-prices", {"tea": "4.20", "coffee": "3.80"}

consumer = AsyncPushConsumer("example-price-service", consume_from_where="CONSUME_FROM_FIRST_OFFSET")


@consumer.replier(TOPIC)  # what the function returns is the reply; a plain function runs in a thread
def price_of(message: MessageExt) -> str | None:
    return PRICES.get(message.text())  # None: no reply


async def main() -> None:
    async with AsyncAdmin() as admin:  # on all brokers, so that the consumer has all queues from its start
        await admin.create_topic(TOPIC)
        await admin.wait_for_route(TOPIC)
    async with consumer, AsyncProducer("example-price-clients") as producer:
        for article in ("tea", "coffee"):
            reply = await producer.request(Message(TOPIC, article), timeout_s=10.0)
            print(f"{article}: {reply.text()}", flush=True)
        try:
            await producer.request(Message(TOPIC, "gold"), timeout_s=1.0)
        except ReplyTimeoutError as error:
            print(f"gold: {error}", flush=True)


asyncio.run(main())
