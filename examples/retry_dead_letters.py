"""A message that cannot be handled: it comes again twice, then it is a dead letter. Start a cluster: `rmq-redis up`."""

import threading

from rmq_redis import Admin, ConsumeFromWhere, Message, MessageExt, Producer, PullConsumer, PushConsumer

TOPIC, GROUP = "payments", "example-billing"
consumer = PushConsumer(GROUP, consume_from_where=ConsumeFromWhere.CONSUME_FROM_LAST_OFFSET)
gave_up = threading.Event()


@consumer.handler(TOPIC)
def charge(message: MessageExt) -> None:
    print(f"{message.text()}: delivery {message.reconsume_times + 1}", flush=True)
    if message.reconsume_times == 2:
        gave_up.set()
    raise ValueError("the card is not valid")  # or: return ConsumeResult.LATER


with Admin() as admin:
    admin.create_topic(TOPIC)
    admin.wait_for_route(TOPIC)
    # Without this: 16 tries after 10 s, 30 s, 1 min, ... 2 h. Apache's brokers always take those times.
    admin.create_group(GROUP, retry_max_times=2, retry_delays_s=[0.5, 1.0])

with Producer("example-producer") as producer, consumer:
    result = producer.send(Message(TOPIC, "order 7", keys="order-7"))
    gave_up.wait()

    with Admin() as admin, PullConsumer("example-dead-letters") as reader:
        admin.wait_for_route(f"%DLQ%{GROUP}")
        reader.assign(reader.fetch_subscribe_message_queues(f"%DLQ%{GROUP}"))
        for queue in reader.assignment:
            reader.seek(queue, 0)
        for letter in reader:
            if letter.msg_id == result.msg_id:
                print(f"dead letter: {letter.text()} of {letter.properties['DLQ_ORIGIN_TOPIC']}, keys {letter.keys}")
                break

print(f"see `rmq-redis dlq list {GROUP}`; once it can be handled: `rmq-redis dlq resend {GROUP} --all`")
