"""Every exception class of the package, on one page.

``RmqError`` is the base of all we raise on purpose. Every class says by ``retriable`` whether the same call may succeed
later or on another queue.
"""

from __future__ import annotations

from .codes import ResponseCode


class RmqError(Exception):
    """Base of everything that this package raises on purpose."""

    retriable = False
    """True: the same call may succeed later, or on another MessageQueue."""


class ConfigError(RmqError):
    """A setting that cannot be used; the text names the setting, its value and what would do."""


class ProtocolError(RmqError):
    """Bytes or values that the wire format does not allow."""


class LocalProtocolError(ProtocolError):
    """We were about to send something that the format cannot carry (a property with \\x01, a 20 MiB frame)."""


class RemoteProtocolError(ProtocolError):
    """The peer sent something malformed. If it was a frame, its position is lost: close the connection."""


class StoreError(RmqError):
    """Redis refused a command or could not be reached.

    Attributes:
        code: response code for the client that sent the request.
        public_reason: the reason that the client receives, without the store's address and the text of Redis, which
            may name other servers. "": the text of the error.
    """

    retriable = True
    code: ResponseCode = ResponseCode.SERVICE_NOT_AVAILABLE
    public_reason = "it cannot be reached or refused a command; the server's log says why"


class StoreFencedError(StoreError):
    """Another master has taken this broker group over: our epoch is old, and nothing of ours is written any more."""

    retriable = False
    public_reason = "another broker has taken this group over"


class StoreLostError(StoreFencedError):
    """The store has lost what it had (a flush, an older snapshot, no persistence), and nothing was written."""

    public_reason = "it has lost its data"


class StoreRefusedError(StoreError):
    """The server has no such command, or the user may not run it (its ACL, a managed server)."""


class StoreUnconfirmedError(StoreError):
    """Stored, but not (known to be) on disk or on replicas as the broker's mode asks for.

    Attributes:
        code: what a producer is answered: FLUSH_DISK_TIMEOUT, FLUSH_SLAVE_TIMEOUT or SLAVE_NOT_AVAILABLE.
    """

    public_reason = ""

    def __init__(self, text: str, code: ResponseCode = ResponseCode.FLUSH_DISK_TIMEOUT) -> None:
        super().__init__(text)
        self.code = code


class StoreBusyError(StoreError):
    """What was to be stored waited too long for a slow store and was not sent to it: it is sure not to be stored."""

    code = ResponseCode.SYSTEM_BUSY
    public_reason = ""


class StoreFullError(StoreError):
    """Redis is out of memory (``maxmemory``) and takes nothing new; what it has can be read."""

    public_reason = "Redis is out of memory (maxmemory)"


class RemotingError(RmqError):
    """A call did not get an answer."""

    retriable = True


class RemotingConnectError(RemotingError):
    """No connection to that address."""


class ConnectionClosedError(RemotingError):
    """The connection closed before the answer came; the request may or may not have been carried out."""


class RequestTimeoutError(RemotingError):
    """No answer in time; the request may or may not have been carried out."""


class ReplyTimeoutError(RequestTimeoutError):
    """A request was stored, but its reply did not come in time. RocketMQ's RequestTimeoutException, code 10006."""


class ClientError(RmqError):
    """The SDK was used in a way that cannot work (not started, closed, no subscription)."""


class MessageIllegalLocallyError(ClientError, ValueError):
    """A message that no broker would take: empty, too big, an illegal topic name or property."""


class MessageRefusedError(ClientError):
    """Raised by an interceptor's ``before_send``: the message must not be sent. The caller of the send gets it."""


class MessageDecodeError(RmqError):
    """The body of a message is no value of the type that its handler takes, its content type is unknown, or it cannot
    be decompressed (``MessageExt.body_error``)."""


class RouteNotFoundError(RmqError):
    """No NameServer knows a route for the topic, or the route has no queue that can be used."""

    retriable = True


class ResponseError(RmqError):
    """An answer with a code other than SUCCESS. Raised in a handler it becomes the response; a client raises the same.

    Attributes:
        code: the response code (an int: a peer may use one we do not know).
        remark: what the peer said.
    """

    code: int = ResponseCode.SYSTEM_ERROR

    def __init__(self, remark: str = "", *, code: int | None = None, address: str = "") -> None:
        if code is not None:
            self.code = code
        self.remark = remark
        self.address = address
        super().__init__(remark)

    def __str__(self) -> str:
        try:
            name = ResponseCode(self.code).name
        except ValueError:
            name = "unknown code"
        peer = f" from {self.address}" if self.address else ""
        return f"{name} ({int(self.code)}){peer}: {self.remark}" if self.remark else f"{name} ({int(self.code)}){peer}"


class BrokerSystemError(ResponseError):
    """1: the peer failed; anything without a code of its own."""

    code, retriable = ResponseCode.SYSTEM_ERROR, True


class SystemBusyError(ResponseError):
    """2: overloaded; try later or elsewhere."""

    code, retriable = ResponseCode.SYSTEM_BUSY, True


class RequestCodeNotSupportedError(ResponseError):
    """3: the peer does not know the request code."""

    code = ResponseCode.REQUEST_CODE_NOT_SUPPORTED


class MessageIllegalError(ResponseError):
    """13: body empty or too big, properties too long."""

    code = ResponseCode.MESSAGE_ILLEGAL


class ServiceNotAvailableError(ResponseError):
    """14: a broker that takes no writes now: a slave, one that stops, one whose store is away."""

    code, retriable = ResponseCode.SERVICE_NOT_AVAILABLE, True


class NoPermissionError(ResponseError):
    """16: the broker, topic or group does not allow this."""

    code, retriable = ResponseCode.NO_PERMISSION, True


class TopicNotExistError(ResponseError):
    """17: unknown topic, and it is not created automatically."""

    code, retriable = ResponseCode.TOPIC_NOT_EXIST, True


class QueryNotFoundError(ResponseError):
    """22: nothing stored under that name."""

    code = ResponseCode.QUERY_NOT_FOUND


class SubscriptionParseFailedError(ResponseError):
    """23: the filter expression cannot be understood."""

    code = ResponseCode.SUBSCRIPTION_PARSE_FAILED


class SubscriptionNotExistError(ResponseError):
    """24: the pull carries no subscription and no heartbeat announced one."""

    code, retriable = ResponseCode.SUBSCRIPTION_NOT_EXIST, True


class SubscriptionNotLatestError(ResponseError):
    """25: the broker's subscription is older than the pull's."""

    code, retriable = ResponseCode.SUBSCRIPTION_NOT_LATEST, True


class SubscriptionGroupNotExistError(ResponseError):
    """26: unknown consumer group, and it is not created automatically."""

    code = ResponseCode.SUBSCRIPTION_GROUP_NOT_EXIST


class InvalidParameterError(ResponseError):
    """29: a header field with a value that cannot be (illegal topic name, queue id out of range)."""

    code = ResponseCode.INVALID_PARAMETER


class ConsumerNotOnlineError(ResponseError):
    """206: no member of the group is connected."""

    code = ResponseCode.CONSUMER_NOT_ONLINE


class NoMessageError(ResponseError):
    """208: there is no message at that offset, or its handle does not hold any more."""

    code = ResponseCode.NO_MESSAGE


class FlowControlError(ResponseError):
    """215: asked too often; wait a little."""

    code, retriable = ResponseCode.FLOW_CONTROL, True


class GoAwayError(ResponseError):
    """1500: the peer is shutting down; use another."""

    code, retriable = ResponseCode.GO_AWAY, True


_BY_CODE: dict[int, type[ResponseError]] = {int(cls.code): cls for cls in ResponseError.__subclasses__()}


def response_error(code: int, remark: str | None, address: str = "") -> ResponseError:
    """The exception for a response: the class of its code, or plain ``ResponseError`` for a code without one."""
    return _BY_CODE.get(code, ResponseError)(remark or "", code=code, address=address)
