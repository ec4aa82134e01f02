"""Drives rocketmq-client-cpp through its Python binding `rocketmq`.

Usage: driver.py NAMESRV_ADDR produce|consume --option value ...
Prints one JSON object per line; the options and events are listed in ../README.md.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import threading

from rocketmq.client import Message, Producer, PushConsumer, RecvMessage

WANTED_PROPERTIES = ("TAGS", "KEYS", "UNIQ_KEY", "WAIT", "RETRY_TOPIC", "ORIGIN_MESSAGE_ID")
print_lock = threading.Lock()


def print_event(event: str, **values: object) -> None:
    with print_lock:
        sys.stdout.write(json.dumps({"event": event, **values}) + "\n")
        sys.stdout.flush()


def text(value: bytes | str | None) -> str | None:
    return value.decode() if isinstance(value, bytes) else value


def build_messages(options: argparse.Namespace) -> list[tuple[str, Message]]:
    tags = options.tags.split(",") if options.tags else [None]
    messages = []
    for index in range(options.count):
        body = f"{options.body_prefix}-{index}{'x' * options.pad_bytes}"
        message = Message(options.topic)
        message.set_body(body)
        tag = tags[index % len(tags)]
        if tag:
            message.set_tags(tag)
        if options.key_prefix:
            message.set_keys(f"{options.key_prefix}-{index}")
        for pair in filter(None, options.properties.split(",")):
            name, value = pair.split("=", 1)
            message.set_property(name, value)
        messages.append((body, message))
    return messages


def produce(options: argparse.Namespace) -> None:
    producer = Producer(options.group or "cpp_producer")
    producer.set_namesrv_addr(options.namesrv_addr)
    producer.start()
    messages = build_messages(options)
    if options.mode == "batch":
        result = producer.send_batch([message for _, message in messages])
        print_event("sent-batch", status=result.status.name, msgIds=result.msg_id.split(","), queueOffset=result.offset)
    else:
        for body, message in messages:
            result = producer.send_sync(message)
            print_event("sent", body=body, status=result.status.name, msgId=result.msg_id, queueOffset=result.offset)
    producer.shutdown()
    print_event("stopped")


def consume(options: argparse.Namespace) -> None:
    failures = set(filter(None, options.fail_bodies.split(",")))
    properties = (*WANTED_PROPERTIES, *filter(None, options.properties.split(",")))

    def on_message(message: RecvMessage) -> None:
        body = text(message.body)
        print_event(
            "message",
            topic=message.topic,
            tags=text(message.tags),
            keys=text(message.keys),
            body=body,
            msgId=message.id,
            queueId=message.queue_id,
            queueOffset=message.queue_offset,
            reconsumeTimes=message.reconsume_times,
            properties={name: value for name in properties if (value := text(message.get_property(name))) is not None},
        )
        if body in failures and message.reconsume_times == 0:
            raise RuntimeError(f"asked to fail {body}")

    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    consumer = PushConsumer(options.group)
    consumer.set_namesrv_addr(options.namesrv_addr)
    consumer.set_instance_name(f"interop{os.getpid()}")
    consumer.subscribe(options.topic, on_message, options.tags or "*")
    consumer.start()
    print_event("started")
    while not stop.wait(0.1):  # a wait without a timeout would keep Python from running the signal handler
        pass
    consumer.shutdown()
    print_event("stopped")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("namesrv_addr")
    parser.add_argument("action", choices=["produce", "consume"])
    parser.add_argument("--topic", required=True)
    parser.add_argument("--group", default="")
    parser.add_argument("--count", type=int, default=1)
    parser.add_argument("--tags", default="")
    parser.add_argument("--key-prefix", default="")
    parser.add_argument("--body-prefix", default="message")
    parser.add_argument("--pad-bytes", type=int, default=0)
    parser.add_argument("--properties", default="", help="produce: a=1,b=2; consume: names to print, a,b")
    parser.add_argument("--mode", choices=["single", "batch"], default="single")
    parser.add_argument("--fail-bodies", default="")
    options = parser.parse_args()
    {"produce": produce, "consume": consume}[options.action](options)
    sys.stdout.flush()
    os._exit(0)  # destructors of the library may hang or crash after shutdown


main()
