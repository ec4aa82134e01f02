"""What users write by mistake: a type checker must find an error in each marked line, and in no other."""

from rmq_redis import (
    Admin,
    App,
    AsyncAdmin,
    AsyncProducer,
    AsyncPullConsumer,
    AsyncPushConsumer,
    AsyncSimpleConsumer,
    AsyncTransactionProducer,
    ClientConfig,
    LocalTransactionState,
    Message,
    MessageExt,
    Producer,
    PullConsumer,
    PushConsumer,
    SimpleConsumer,
    TransactionProducer,
)


class Listener:
    def execute_local_transaction(self, message: Message, arg: object) -> LocalTransactionState:
        return LocalTransactionState.UNKNOW

    def check_local_transaction(self, message: MessageExt) -> LocalTransactionState:
        return LocalTransactionState.UNKNOW


class HalfListener:
    def execute_local_transaction(self, message: Message, arg: object) -> LocalTransactionState:
        return LocalTransactionState.UNKNOW


# Names that do not exist.
AsyncProducer("g", send_timout_s=3)  # error
Producer("g", send_timout_s=3)  # error
AsyncPushConsumer("g", orderd=True)  # error
PushConsumer("g", orderd=True)  # error
AsyncPullConsumer("g", consume_from="x")  # error
PullConsumer("g", consume_from="x")  # error
AsyncSimpleConsumer("g", fofo=True)  # error
SimpleConsumer("g", fofo=True)  # error
AsyncTransactionProducer("g", Listener(), topic="t")  # error
TransactionProducer("g", Listener(), topic="t")  # error
AsyncAdmin(request_timeout=1)  # error
Admin(request_timeout=1)  # error
App("a", interceptor=[])  # error
App("a").consumer("t", orderd=True)  # error
ClientConfig(send_timout_s=3)  # error
PushConsumer("g").handler("t", tag="a")  # error
Admin().create_topic("t", read_queues=8)  # error
Producer("g").send_value("t", 1, tag="a")  # error

# Values of another type.
AsyncProducer("g", send_timeout_s="3")  # error
Producer("g", retry_times_when_send_failed="2")  # error
PushConsumer("g", concurrency="3")  # error
PushConsumer("g", orderly="yes")  # error
App("a").consumer("t", max_reconsume_times="3")  # error
SimpleConsumer("g", fifo="yes")  # error
Producer("g").send("text")  # error
Producer("g").send(Message("t", b"x"), timeout_s="3")  # error
Message("t", "x", flag="1")  # error
Message("t", "x").with_delay_s("3")  # error
TransactionProducer("g", HalfListener())  # error
PullConsumer("g").poll("1")  # error
Producer("g").send(Message("t", b"x")).offset  # error  # noqa: B018
