"""What users write: both type checkers must find nothing."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

from rmq_redis import (
    Admin,
    App,
    AsyncAdmin,
    AsyncProducer,
    AsyncPullConsumer,
    AsyncPushConsumer,
    AsyncSimpleConsumer,
    AsyncTransactionProducer,
    ClientConfig,
    ConsumeFromWhere,
    ConsumeResult,
    LocalTransactionState,
    Message,
    MessageExt,
    MessageQueue,
    Producer,
    PullConsumer,
    PushConsumer,
    ResponseError,
    SendResult,
    SimpleConsumer,
    TransactionProducer,
    TransactionSendResult,
    decode_value,
    reply_to,
    stop_signals,
    value_message,
)
from rmq_redis.idempotent import idempotent


@dataclass
class Order:
    order_id: int


class OrderTransaction:
    def execute_local_transaction(self, message: Message, order: tuple[int, int]) -> LocalTransactionState:
        return LocalTransactionState.COMMIT_MESSAGE

    def check_local_transaction(self, asked: MessageExt) -> LocalTransactionState | None:
        return None


class AsyncTransaction:
    async def execute_local_transaction(self, message: Message, arg: object) -> LocalTransactionState:
        return LocalTransactionState.UNKNOW

    async def check_local_transaction(self, message: MessageExt) -> LocalTransactionState:
        return LocalTransactionState.ROLLBACK_MESSAGE


def by_first(queues: Sequence[MessageQueue], message: Message, key: str | None) -> MessageQueue:
    return queues[0]


def sync() -> None:
    with Producer("g", "127.0.0.1:9876", send_timeout_s=3, zone="a", interceptors=[object()]) as producer:
        result: SendResult = producer.send(Message("t", "x", tags="a", keys=["k"], properties={"a": "b"}), key="k")
        queue: MessageQueue = result.queue
        producer.send_async(Message("t", b"x").with_delay_s(timedelta(minutes=1)), queue=queue).result(3)
        producer.send_batch([Message("t", "x")])
        producer.send_value("t", Order(1), keys="order-1")
        text: str = producer.request(Message("t", "x")).text()
        producer.recall("t", result.recall_handle)
        print(text)
    consumer = PushConsumer("g", consume_from_where="CONSUME_FROM_FIRST_OFFSET", orderly=True, concurrency=3)

    @consumer.handler("t", tags="a")
    def handle(message: MessageExt) -> ConsumeResult | None:
        return ConsumeResult.LATER if message.reconsume_times else None

    @consumer.handler("v", value=Order)
    async def bill(order: Order) -> None: ...

    consumer.run_forever()
    with PullConsumer("g", config=ClientConfig(zone="a")) as pull:
        pull.assign(pull.fetch_subscribe_message_queues("t"))
        for message in pull:
            body: bytes = message.body
            print(body)
    with SimpleConsumer("g", fifo=True) as simple:
        simple.ack(simple.receive(1, timedelta(seconds=30)))
    with Admin() as admin:
        names: list[str] = admin.topic_list()
        admin.create_topic("t", read_queue_nums=8)
        print(names)
    with TransactionProducer("g", OrderTransaction(), topics=["t"]) as transactions:
        sent: TransactionSendResult = transactions.send_message_in_transaction(Message("t", "x"), (7, 1990))
        state: LocalTransactionState = sent.local_transaction_state
        print(state)


async def main() -> None:
    try:
        async with AsyncProducer("g", retry_times_when_send_failed=3) as producer, AsyncAdmin() as admin:
            result = await producer.send(value_message("t", Order(7)), selector=by_first)
            print(result.queue_offset + 1, await admin.topic_list())
    except ResponseError as error:
        print(error.code, error.retriable)
    async with AsyncTransactionProducer("g", AsyncTransaction()) as transactions:
        await transactions.send_message_in_transaction(Message("t", "x"))
    async with AsyncPullConsumer("g") as pull:
        async for message in pull:
            order: Order = decode_value(message, Order)
            print(order, reply_to(message, "x"))
    async with AsyncSimpleConsumer("g") as simple:
        with stop_signals() as stop:
            while not stop.is_set():
                await simple.ack(await simple.receive())
    consumer = AsyncPushConsumer("g", consume_from_where=ConsumeFromWhere.CONSUME_FROM_FIRST_OFFSET)

    @consumer.handler("t")
    @idempotent("redis://127.0.0.1:6379/0")
    async def handle(message: MessageExt) -> None: ...

    await consumer.run_forever()


app = App("shop", namesrv_addr="127.0.0.1:9876", send_timeout_s=1.5)


@app.consumer("orders", value=Order, orderly=True, tags="created || paid", max_reconsume_times=3)
async def bill(order: Order) -> None:
    await app.producer.send_value("bills", order)


if __name__ == "__main__":
    asyncio.run(main())
    app.run()
