"""A message for every process: each member gets all, remembers how far it got, and goes on there after a restart."""

import threading

from rmq_redis import Admin, Message, MessageExt, MessageModel, Producer, PushConsumer

TOPIC, GROUP, MEMBERS = "example-settings", "example-cache", 2
counted = threading.Semaphore(0)


def member(name: str) -> PushConsumer:
    # instance_name: the member's own, and the same after a restart; without one, members of a machine are numbered
    consumer = PushConsumer(GROUP, message_model=MessageModel.BROADCASTING, instance_name=name)

    @consumer.handler(TOPIC)
    async def reload(message: MessageExt) -> None:
        print(f"{name}: {message.text()}", flush=True)
        counted.release()

    return consumer


with Admin() as admin:
    admin.create_topic(TOPIC)
    admin.wait_for_route(TOPIC)

with Producer("example-settings-producer") as producer:
    for value in ("colour=red", "colour=blue"):
        if value == "colour=blue":  # new members begin at the end; these were there before, and miss nothing
            producer.send(Message(TOPIC, value))
        with member("member-1"), member("member-2"):
            if value == "colour=red":
                producer.send(Message(TOPIC, value))
            for _ in range(MEMBERS):
                counted.acquire()
