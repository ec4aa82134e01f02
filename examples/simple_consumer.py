"""Messages one by one: received, given more time, acknowledged. Run: python examples/simple_consumer.py [NAMESRV]."""

import sys

from rmq_redis import Message, Producer, SimpleConsumer

namesrv = sys.argv[1] if len(sys.argv) > 1 else None  # default: RMQ_REDIS_NAMESRV_ADDR, or 127.0.0.1:9876
topic = "simple-jobs"

with Producer("simple-jobs", namesrv) as producer, SimpleConsumer("simple-workers", namesrv) as consumer:
    for number in range(3):
        producer.send(Message(topic, f"job {number}"))
    consumer.subscribe(topic)
    done = 0
    while done < 3:
        # Hidden from the other workers for 10 s; who dies meanwhile has the message delivered again.
        for message in consumer.receive(max_message_num=2, invisible_duration_s=10, await_duration_s=5):
            consumer.change_invisible_duration(message, 60)  # this one takes longer
            print(message.text(), "done")
            consumer.ack(message)
            done += 1
