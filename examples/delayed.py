"""Has messages delivered later, and takes one of them back. Start a cluster first: `rmq-redis up`."""

import threading
import time

from rmq_redis import ConsumeFromWhere, Message, MessageExt, Producer, PushConsumer, ResponseError

TOPIC = "reminders"
arrived = threading.Semaphore(0)
consumer = PushConsumer("example-reminders", consume_from_where=ConsumeFromWhere.CONSUME_FROM_FIRST_OFFSET)


@consumer.handler(TOPIC)
def remind(message: MessageExt) -> None:
    late_ms = time.time() * 1000 - message.store_timestamp_ms
    print(f"{message.text()}: stored when it was due, here {late_ms:.0f} ms later", flush=True)
    arrived.release()


with Producer("example-producer") as producer, consumer:
    now_ms = int(time.time() * 1000)
    producer.send(Message(TOPIC, "in 1.5 s").with_delay_s(1.5))
    producer.send(Message(TOPIC, "at a time").with_deliver_at_ms(now_ms + 2000))
    producer.send(Message(TOPIC, "level 1, which is 1 s").with_delay_level(1))  # understood by RocketMQ 4 as well
    never = producer.send(Message(TOPIC, "never").with_delay_s(3600))

    print("recalled", producer.recall(TOPIC, never.recall_handle) == never.msg_id)
    try:
        producer.recall(TOPIC, never.recall_handle)
    except ResponseError as error:
        print("recalled once only:", error.remark)

    for _ in range(3):
        arrived.acquire()
