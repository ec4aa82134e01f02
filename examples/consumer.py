"""Prints the messages of producer.py as they arrive, until Ctrl-C. Start a second one: the two share the queues."""

from rmq_redis import ConsumeFromWhere, MessageExt, PushConsumer

consumer = PushConsumer("example-consumer", consume_from_where=ConsumeFromWhere.CONSUME_FROM_FIRST_OFFSET)


@consumer.handler("greetings", tags="example")
async def greet(message: MessageExt) -> None:
    # A plain function will do as well; several of those run at once, each in a thread.
    # An exception has the message delivered again later.
    print(f"{message.text()} ({message.keys}, queue {message.queue_id} offset {message.queue_offset})", flush=True)


consumer.run_forever()
