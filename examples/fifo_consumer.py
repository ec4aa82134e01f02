"""Each order's events in their order, for any number of workers. Run: python examples/fifo_consumer.py [NAMESRV]."""

import sys

from rmq_redis import Message, Producer, SimpleConsumer

namesrv = sys.argv[1] if len(sys.argv) > 1 else None  # default: RMQ_REDIS_NAMESRV_ADDR, or 127.0.0.1:9876
topic, orders, steps = "fifo-orders", ["order-1", "order-2"], ["created", "paid", "shipped"]

with Producer("fifo-orders", namesrv) as producer, SimpleConsumer("fifo-workers", namesrv, fifo=True) as consumer:
    for step in steps:
        for order in orders:  # the same key goes to the same queue, and a queue is received in order
            producer.send(Message(topic, step, keys=order), key=order)
    consumer.subscribe(topic)
    done = 0
    while done < len(orders) * len(steps):
        # Nobody gets more of these messages' queues until all of them are acknowledged, or 10 s are over.
        for message in consumer.receive(max_message_num=2, invisible_duration_s=10, await_duration_s=5):
            print(message.keys, message.text())
            consumer.ack(message)
            done += 1
