"""Sends orders with properties and consumes only those that an SQL92 condition is true for. The broker decides."""

import queue

from rmq_redis import Message, MessageExt, Producer, PushConsumer

ORDERS = [("berlin", 120), ("berlin", 20), ("paris", 300), ("berlin", 80)]
received: queue.Queue[str] = queue.Queue()


def handle(message: MessageExt) -> None:
    received.put(message.text())


with Producer("example-producer") as producer:
    for city, price in ORDERS:
        producer.send(Message("orders", f"{city} {price}", properties={"city": city, "price": str(price)}))

consumer = PushConsumer("example-sql-filter", consume_from_where="CONSUME_FROM_FIRST_OFFSET")
# A property is text or missing; compared with a number it is a number.
consumer.subscribe("orders", "city = 'berlin' AND price > 50", handle, expression_type="SQL92")
with consumer:
    for _ in range(2):
        print(received.get(timeout=30))
