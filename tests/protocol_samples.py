"""Bytes as RocketMQ's own clients and servers write them."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator

from rmq_redis.protocol import headers
from rmq_redis.protocol.headers.base import Header

ROUTE_BARE = (
    b'{"brokerDatas":[{"brokerAddrs":{0:"10.0.0.5:10911",1:"10.0.0.6:10911"},"brokerName":"broker-a",'
    b'"cluster":"DefaultCluster"}],"filterServerTable":{},"queueDatas":[{"brokerName":"broker-a","perm":6,'
    b'"readQueueNums":4,"topicSysFlag":0,"writeQueueNums":4}]}'
)

REGISTER_PLAIN = (
    b'{"filterServerList":[],"topicConfigSerializeWrapper":{"dataVersion":{"counter":1,"stateVersion":0,'
    b'"timestamp":1700000000000},"topicConfigTable":{"TopicTest":{"attributes":{},"order":false,"perm":6,'
    b'"readQueueNums":4,"topicFilterType":"SINGLE_TAG","topicName":"TopicTest","topicSysFlag":0,'
    b'"writeQueueNums":4}}}}'
)

REGISTER_UNPACKED = (
    b"\0\0\0\x38" + b'{"counter":1,"stateVersion":0,"timestamp":1700000000000}'
    b"\0\0\0\1" + b"\0\0\0\x1d" + b"TopicTest 4 4 6 SINGLE_TAG {}" + b"\0\0\0\2" + b"[]" + b"\0\0\0\0"
)

HEARTBEAT_JAVA = (
    b'{"clientID":"10.0.0.7@1234#1","consumerDataSet":[{"consumeFromWhere":"CONSUME_FROM_LAST_OFFSET",'
    b'"consumeType":"CONSUME_PASSIVELY","groupName":"G","messageModel":"CLUSTERING","subscriptionDataSet":['
    b'{"classFilterMode":false,"codeSet":[2598919],"expressionType":"TAG","subString":"TagA",'
    b'"subVersion":1700000000000,"tagsSet":["TagA"],"topic":"TopicTest"},{"classFilterMode":false,"codeSet":[],'
    b'"expressionType":"TAG","subString":"*","subVersion":1700000000000,"tagsSet":[],"topic":"%RETRY%G"}],'
    b'"unitMode":false}],"heartbeatFingerprint":0,"producerDataSet":[{"groupName":"PG"}],"withoutSub":false}'
)

ROUTE_JSON = (
    bytes.fromhex("00000087 00000083")
    + b'{"code":105,"extFields":{"topic":"TopicTest"},"flag":0,"language":"JAVA","opaque":7,'
    + b'"serializeTypeCurrentRPC":"JSON","version":409}'
)

ROUTE_BINARY = bytes.fromhex(
    "0000002d 01000029 0069 00 0199 00000007 00000000 00000000 000000140005 746f706963 00000009 546f70696354657374"
)

ROUTE_ANSWER_BODY = (
    b'{"brokerDatas":[{"brokerAddrs":{0:"10.0.0.5:10911",1:"10.0.0.6:10911"},"brokerName":"broker-a",'
    b'"cluster":"DefaultCluster"}],"filterServerTable":{},"queueDatas":[{"brokerName":"broker-a","perm":6,'
    b'"readQueueNums":4,"topicSysFlag":0,"writeQueueNums":4}]}'
)

ROUTE_ANSWER = (
    bytes.fromhex("0000015e 0000005f")
    + b'{"code":0,"flag":1,"language":"JAVA","opaque":7,"serializeTypeCurrentRPC":"JSON","version":409}'
    + ROUTE_ANSWER_BODY
)

SEND = (
    bytes.fromhex("0000016c 00000163")
    + rb'{"code":310,"extFields":{"a":"PG","b":"TopicTest","c":"TBW102","d":"4","e":"3","f":"0","g":"1700000000000",'
    + rb'"h":"0","i":"TAGS\u0001TagA\u0002UNIQ_KEY\u00010A000007303918B4AAC2018F3A1B0000\u0002WAIT\u0001true\u0002",'
    + rb'"j":"0","k":"false","l":"0","m":"false","n":"broker-a"},"flag":0,"language":"JAVA","opaque":9,'
    + rb'"serializeTypeCurrentRPC":"JSON","version":409}'
    + b"hello"
)

SEND_ANSWER = (
    bytes.fromhex("000000ec 000000e8")
    + b'{"code":0,"extFields":{"MSG_REGION":"DefaultRegion","TRACE_ON":"true",'
    + b'"msgId":"0A00000500002A9F000000000001E240","queueId":"3","queueOffset":"42"},"flag":1,"language":"JAVA",'
    + b'"opaque":9,"serializeTypeCurrentRPC":"JSON","version":409}'
)


for module in pkgutil.iter_modules(headers.__path__, f"{headers.__name__}."):
    importlib.import_module(module.name)


def header_types(base: type[Header] = Header) -> Iterator[type[Header]]:
    for kind in base.__subclasses__():
        if kind.__module__.startswith(f"{headers.__name__}."):
            yield kind
        yield from header_types(kind)


HEADER_TYPES = sorted(set(header_types()), key=lambda kind: kind.__name__)

RECORD = bytes.fromhex(
    "000000af daa320a7 3610a686 00000003 00000000 000000000000002a 000000000001e240 00000000 0000018bcfe56800"
    "0a0000070000c3cb 0000018bcfe56805 0a00000500002a9f 00000000 0000000000000000 00000005 68656c6c6f"
    "09 546f70696354657374 0046 4b455953016b3102 54414753015461674102 554e49515f4b455901"
    "3041303030303037333033393138423441414332303138463341314230303030 02 57414954017472756502"
)

BATCH_ITEM = bytes.fromhex("00000027 00000000 00000000 00000000 00000005 68656c6c6f 000c 554e49515f4b45590141 31 02")
