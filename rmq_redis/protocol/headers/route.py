"""Headers of questions about routes and clusters to the NameServer."""

from __future__ import annotations

import msgspec

from .base import Header


class GetRouteInfoRequestHeader(Header):
    topic: str
    accept_standard_json_only: bool | None = None
    zone_name: str | None = msgspec.field(default=None, name="__ZONE_NAME")
    zone_mode: str | None = msgspec.field(default=None, name="__ZONE_MODE")


class ClusterRequestHeader(Header):
    cluster: str


class BrokerMemberGroupRequestHeader(Header):
    cluster_name: str
    broker_name: str
