"""A member of a group: one client id at one connection, and what it subscribes to."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from ...remoting.connection import Connection

Signature = frozenset[tuple[str, str, "str | frozenset[str]"]]
"""What a member subscribes to: (topic, expression type, expression)."""


class Member(msgspec.Struct, eq=False):
    """One connection's membership in a group. ``signature``: what it subscribes to there, ``message_model``: how."""

    connection: Connection
    client_id: str
    language: int
    version: int
    last_update_s: float
    signature: Signature = frozenset()
    message_model: str = ""


Members = Mapping[Connection, Mapping[str, Member]]
"""The members of a group: by connection, then by client id."""


def remove_member(members: dict[Connection, dict[str, Member]], connection: Connection, client_id: str) -> bool:
    """Removes one member; False if it was none."""
    known = members.get(connection)
    if known is None or known.pop(client_id, None) is None:
        return False
    if not known:
        del members[connection]
    return True


def remove_older(members: dict[Connection, dict[str, Member]], oldest_s: float) -> list[tuple[Connection, str]]:
    """Removes the members without a heartbeat since ``oldest_s``; returns (connection, client id) of each."""
    gone: list[tuple[Connection, str]] = []
    for connection, known in list(members.items()):
        for client_id, member in list(known.items()):
            if member.last_update_s < oldest_s:
                del known[client_id]
                gone.append((connection, client_id))
        if not known:
            del members[connection]
    return gone
