"""Sends three messages. Start a cluster first: `rmq-redis up`."""

from rmq_redis import Message, Producer

# The NameServer is 127.0.0.1:9876, or what the environment variable RMQ_REDIS_NAMESRV_ADDR says.
with Producer("example-producer") as producer:
    for number in range(3):
        message = Message("greetings", f"hello {number}", tags="example", keys=f"greeting-{number}")
        result = producer.send(message)
        print(f"{result.msg_id} is in {result.queue.broker_name} queue {result.queue.queue_id}")
