"""The route table and its merging with the registry: no I/O, times are given."""

from __future__ import annotations

import ast
import json

import pytest

from rmq_redis.errors import ResponseError
from rmq_redis.model import DataVersion, QueueData, TopicConfig
from rmq_redis.nameserver.routes import ORDER_TOPIC_CONFIG
from rmq_redis.nameserver.shared_routes import SharedRouteTable
from rmq_redis.store.registry.entries import GroupKey, GroupSnapshot, GroupWrite, LiveBroker

A = GroupKey("C", "broker-a")
CONNECTION, OTHER_CONNECTION = object(), object()


def broker(broker_id=0, addr="10.0.0.1:10911", *, name="broker-a", cluster="C", counter=1, state=0, **fields):
    version = DataVersion(counter=counter, state_version=state, timestamp=1000 + counter)
    return LiveBroker(
        cluster=cluster, broker_name=name, broker_id=broker_id, broker_addr=addr, data_version=version, **fields
    )


def topics(*names, queues=4, perm=6, flag=0):
    return {
        name: TopicConfig(
            topic_name=name, read_queue_nums=queues, write_queue_nums=queues, perm=perm, topic_sys_flag=flag
        )
        for name in names
    }


def queue(queues=4, perm=6, name="broker-a"):
    return QueueData(name, queues, queues, perm)


@pytest.fixture
def table():
    return SharedRouteTable(broker_expiry_s=120.0)


def register(table, entry, names=(), now_s=0.0, source=CONNECTION, **options):
    return table.register(entry, topics(*names, **options), now_s, source)


def write(table, key=A, snapshot=GroupSnapshot(), now_s=0.0, forget=False) -> GroupWrite | None:  # noqa: B008  (frozen)
    table.merge(key, snapshot, now_s, forget=forget)
    changes = table.take_changes(key)
    return None if changes is None else table.group_write(key, snapshot, changes, now_s)


# --- registration ------------------------------------------------------------------------------------------------


def test_topics_are_taken_from_the_master_only(table):
    register(table, broker(1, "10.0.0.2:10911"), ["FromSlave"])
    assert table.route("FromSlave") is None
    register(table, broker(), ["T"])
    assert table.route("T").queue_datas == [queue()]
    assert table.route("T").broker_datas[0].broker_addrs == {0: "10.0.0.1:10911", 1: "10.0.0.2:10911"}


def test_id_that_moves_to_another_address_is_a_warning(table, caplog):
    register(table, broker(0, "10.0.0.1:10911"), ["T"])
    register(table, broker(0, "10.0.0.1:10911", counter=2), ["T"])
    assert caplog.records == []
    register(table, broker(0, "10.0.0.2:10911"), ["T"])
    [record] = caplog.records
    assert record.levelname == "WARNING"
    assert "registered at 10.0.0.2:10911 and replaced 10.0.0.1:10911" in record.getMessage()


def test_address_registered_with_another_id_loses_the_old_one(table):
    register(table, broker(1, "10.0.0.2:10911"))
    register(table, broker(0, "10.0.0.2:10911"), ["T"])
    assert table.addresses_of(A) == {0: "10.0.0.2:10911"}
    assert write(table).removed == {1: "10.0.0.2:10911"}


@pytest.mark.parametrize(("state", "taken"), [(4, False), (5, True), (6, True)])
def test_registration_with_smaller_state_version_is_refused(table, state, taken):
    register(table, broker(state=5), ["T"])
    assert register(table, broker(0, "10.0.0.9:10911", state=state), ["T"]) is taken
    assert table.addresses_of(A)[0] == ("10.0.0.9:10911" if taken else "10.0.0.1:10911")


def test_topics_are_replaced_only_with_another_data_version(table):
    register(table, broker(counter=1), ["T"], queues=4)
    register(table, broker(counter=1), ["T", "New"], queues=8)
    assert table.route("T").queue_datas == [queue(4)]
    assert table.route("New").queue_datas == [queue(8)]
    register(table, broker(counter=2), ["T"], queues=16)
    assert table.route("T").queue_datas == [queue(16)]
    assert table.route("New").queue_datas == [queue(8)], "a topic that the body lacks stays"


def test_broker_name_in_use_in_another_cluster_is_refused(table):
    register(table, broker(cluster="C"), ["T"])
    with pytest.raises(ResponseError, match="belongs to cluster C"):
        register(table, broker(0, "10.0.0.9:10911", cluster="D"), ["T"])
    register(table, broker(cluster="D"), ["T"])  # the same broker, moved
    assert table.cluster_info().clusters == {"D": ["broker-a"]}


def test_unchanged_registration_is_only_a_refresh(table):
    register(table, broker(), ["T"])
    assert write(table).topics == {"T": queue()}
    register(table, broker(registered_ms=77), ["T"])
    assert table.changes == {}
    assert [(entry.registered_ms, ttl) for entry, ttl in table.take_refreshed(20.0)] == [(77, 100_000)]


# --- dropping ----------------------------------------------------------------------------------------------------


def test_group_without_members_is_removed_with_its_topics(table):
    register(table, broker(), ["T"])
    register(table, broker(1, "10.0.0.2:10911"))
    assert table.remove(A, 0, "10.0.0.1:10911")
    assert table.route("T").broker_datas[0].broker_addrs == {1: "10.0.0.2:10911"}
    assert table.remove(A, 1, "10.0.0.2:10911")
    assert table.route("T") is None
    assert table.topics() == []
    assert table.cluster_info().clusters == {}


def test_removal_needs_the_address_and_the_connection(table):
    register(table, broker(), ["T"], source=CONNECTION)
    register(table, broker(), ["T"], source=OTHER_CONNECTION)
    assert not table.remove(A, 0, "10.0.0.9:10911")
    assert not table.remove(A, 0, "10.0.0.1:10911", source=CONNECTION), "it registered over a newer connection"
    assert table.remove(A, 0, "10.0.0.1:10911", source=OTHER_CONNECTION)


def test_silent_broker_is_removed_without_the_registry(table):
    register(table, broker(), ["T"], now_s=0.0)
    assert table.expire(120.0, registry_up=False) == []
    table.heard(A, "10.0.0.1:10911", 100.0, CONNECTION)
    assert table.expire(220.0, registry_up=False) == []
    assert [entry.broker_addr for entry in table.expire(220.1, registry_up=False)] == ["10.0.0.1:10911"]
    assert table.route("T") is None


def test_broker_can_only_shorten_its_timeout(table):
    assert table.timeout_s(broker(heartbeat_timeout_millis=10_000)) == 10
    assert table.timeout_s(broker(heartbeat_timeout_millis=1_000_000)) == 120
    assert table.timeout_s(broker(heartbeat_timeout_millis=0)) == 120


def test_silent_broker_stays_while_the_registry_has_it(table):
    register(table, broker(), ["T"])
    table.expire(121.0, registry_up=True)
    assert table.route("T") is not None
    heard_elsewhere = GroupSnapshot({0: broker()}, "r1", {"T": queue()})
    table.merge(A, heard_elsewhere, 121.0, forget=True)
    assert table.route("T") is not None
    table.merge(A, GroupSnapshot(), 122.0, forget=True)
    assert table.route("T") is None


def test_learned_members_stay_while_the_registry_is_offline(table):
    table.merge(A, GroupSnapshot({0: broker()}, "r1", {"T": queue()}), 0.0, forget=True)
    assert table.expire(1e9, registry_up=False) == []
    assert table.route("T") is not None
    table.merge(A, GroupSnapshot(), 1e9, forget=False)
    assert table.route("T") is not None


# --- topics and answers ------------------------------------------------------------------------------------------


def test_topic_is_deleted_by_cluster(table):
    register(table, broker(), ["T", "U"])
    register(table, broker(name="broker-b", addr="10.0.0.3:10911", cluster="D"), ["T"])
    assert table.delete_topic("T", "C") == 1
    assert [item.broker_name for item in table.route("T").queue_datas] == ["broker-b"]
    assert table.topics("C") == ["U"]
    assert table.delete_topic("T") == 1
    assert table.route("T") is None
    assert table.delete_topic("T") == 0


def test_write_perm_is_removed_and_restored(table):
    register(table, broker(), ["T"], perm=6)
    register(table, broker(counter=2), ["TBW102"], perm=7)
    assert table.set_write_perm("broker-a", False) == 2
    assert (table.route("T").queue_datas[0].perm, table.route("TBW102").queue_datas[0].perm) == (4, 5)
    register(table, broker(counter=2), ["T", "TBW102"], perm=7)
    assert table.route("T").queue_datas[0].perm == 4, "the same DataVersion does not undo it"
    assert table.set_write_perm("broker-a", True) == 2
    assert (table.route("T").queue_datas[0].perm, table.route("TBW102").queue_datas[0].perm) == (6, 7)
    assert table.set_write_perm("nobody", True) == 0


def test_write_perm_stays_removed_while_the_registry_lists_it(table):
    register(table, broker(), ["T"], perm=6)
    table.set_kv({"WRITE_PERM_WIPED": {"broker-a": "true"}})
    assert table.route("T").queue_datas[0].perm == 4, "another NameServer was told"
    register(table, broker(counter=2), ["T", "U"], perm=6)
    register(table, broker(name="broker-b", addr="10.0.0.3:10911"), ["T"], perm=6)
    assert [item.perm for item in table.route("T").queue_datas] == [4, 6], "another DataVersion does not undo it"
    assert table.route("U").queue_datas[0].perm == 4
    table.set_kv({})
    register(table, broker(counter=3), ["T", "U"], perm=6)
    assert table.route("T").queue_datas[0].perm == 6


def test_register_topic_ignores_unknown_broker_groups(table):
    register(table, broker(), ["T"])
    table.register_topic("Given", [queue(2), queue(2, name="broker-x")])
    assert table.route("Given").queue_datas == [queue(2)]


def test_unit_topics_are_filtered_by_their_flags(table):
    register(table, broker(counter=1), ["Plain"])
    register(table, broker(counter=2), ["Unit"], flag=1)
    register(table, broker(counter=3), ["UnitSub"], flag=2)
    register(table, broker(counter=4), ["Both"], flag=3)
    assert table.unit_topics(unit=True, unit_sub=None) == ["Both", "Unit"]
    assert table.unit_topics(unit=None, unit_sub=True) == ["Both", "UnitSub"]
    assert table.unit_topics(unit=False, unit_sub=True) == ["UnitSub"]


def test_lists_are_sorted_in_any_registration_order(table):
    register(table, broker(2, "10.0.0.6:1", name="broker-b"))
    register(table, broker(0, "10.0.0.5:1", name="broker-b"), ["T"])
    register(table, broker(0, "10.0.0.4:1"), ["T"])
    route = table.route("T")
    assert [item.broker_name for item in route.broker_datas] == ["broker-a", "broker-b"]
    assert [item.broker_name for item in route.queue_datas] == ["broker-a", "broker-b"]
    assert list(route.broker_datas[1].broker_addrs) == [0, 2]


def test_route_text_is_a_literal_for_old_and_json_for_new_clients(table):
    register(table, broker(enable_acting_master=False), ["T"])
    old = table.route_body("T", standard_json=False)
    assert b'"brokerAddrs":{0:"10.0.0.1:10911"}' in old
    assert ast.literal_eval(old.decode())["brokerDatas"][0]["brokerAddrs"] == {0: "10.0.0.1:10911"}
    new = table.route_body("T", standard_json=True)
    assert json.loads(new)["brokerDatas"][0]["brokerAddrs"] == {"0": "10.0.0.1:10911"}
    assert b" " not in old + new


@pytest.mark.parametrize("standard_json", [True, False])
def test_encoded_route_is_dropped_at_every_change(table, standard_json):
    def body():
        encoded = table.route_body("T", standard_json=standard_json)
        route = table.route("T")
        if route is None:
            assert encoded is None
            return None
        from rmq_redis.protocol.bodies.route import encode_route

        assert encoded == encode_route(route, standard_json=standard_json)
        return encoded

    table.order_message_enable = True
    seen = [body()]
    for change in (
        lambda: register(table, broker(), ["T"]),
        lambda: register(table, broker(1, "10.0.0.2:10911")),
        lambda: register(table, broker(counter=2), ["T"], queues=8),
        lambda: table.set_write_perm("broker-a", False),
        lambda: table.set_kv({ORDER_TOPIC_CONFIG: {"T": "broker-a:8"}}),
        lambda: setattr(table, "order_message_enable", False),
        lambda: table.remove(A, 1, "10.0.0.2:10911"),
        lambda: register(table, broker(0, "10.0.0.7:10911", counter=3), ["T"], queues=8),
        lambda: table.merge(A, GroupSnapshot({0: broker(0, "10.0.0.8:1", state=9)}, "r", {"T": queue(1)}), 0, forget=1),
        lambda: table.delete_topic("T"),
    ):
        change()
        encoded = body()
        assert encoded != seen[-1]
        seen.append(encoded)


# --- the registry ------------------------------------------------------------------------------------------------


def test_new_group_is_written_as_a_whole_and_then_by_changes(table):
    register(table, broker(), ["T", "U"], now_s=0.0)
    first = write(table, now_s=20.0)
    assert first.rewrite
    assert first.topics == {"T": queue(), "U": queue()}
    assert [(entry.broker_id, ttl_ms) for entry, ttl_ms in first.brokers] == [(0, 100_000)]
    table.written(A, "", "r1")

    snapshot = GroupSnapshot({0: broker()}, "r1", None)
    register(table, broker(counter=2), ["V"], now_s=20.0)
    table.delete_topic("U")
    second = write(table, snapshot=snapshot, now_s=20.0)
    assert not second.rewrite
    assert (second.topics, second.deleted_topics) == ({"V": queue()}, ["U"])
    assert write(table, snapshot=GroupSnapshot({0: broker(counter=2)}, "r1", None), now_s=20.0) is None


def test_failed_changes_are_kept_and_newer_ones_win(table):
    register(table, broker(), ["T", "U"])
    register(table, broker(1, "10.0.0.2:10911"))
    table.remove(A, 1, "10.0.0.2:10911")
    taken = table.take_changes(A)
    register(table, broker(1, "10.0.0.2:10911"))
    table.delete_topic("U")
    table.restore_changes(A, taken)
    assert table.changes[A].written == {0, 1}
    again = write(table)
    assert [entry.broker_id for entry, _ in again.brokers] == [0, 1]
    assert again.removed == {}
    assert again.topics == {"T": queue()}


def test_topic_deleted_here_is_not_restored_from_the_registry(table):
    register(table, broker(), ["T", "U"])
    write(table)
    table.written(A, "", "r1")
    table.delete_topic("U")
    snapshot = GroupSnapshot({0: broker()}, "r2", {"T": queue(), "U": queue(), "V": queue()})
    assert write(table, snapshot=snapshot).deleted_topics == ["U"]
    assert table.topics() == ["T", "V"]


def test_topics_deleted_elsewhere_are_removed(table):
    table.merge(A, GroupSnapshot({0: broker()}, "r1", {"T": queue(), "U": queue()}), 0.0, forget=True)
    assert table.topics() == ["T", "U"]
    table.merge(A, GroupSnapshot({0: broker()}, "r2", {"T": queue(8)}), 0.0, forget=True)
    assert table.topics() == ["T"]
    assert table.route("T").queue_datas == [queue(8)]
    table.merge(A, GroupSnapshot({0: broker()}, "r2", None), 0.0, forget=True)
    assert table.topics() == ["T"]


def test_removed_broker_is_not_restored_by_an_older_read(table):
    register(table, broker(), ["T"])
    table.remove(A, 0, "10.0.0.1:10911")
    change = write(table, snapshot=GroupSnapshot({0: broker()}, "r1", {"T": queue()}))
    assert table.route("T") is None
    assert change.removed == {0: "10.0.0.1:10911"}


def test_connected_broker_removed_elsewhere_is_written_back(table):
    register(table, broker(), ["T"], now_s=0.0)
    write(table)
    table.written(A, "", "r1")
    change = write(table, snapshot=GroupSnapshot(), now_s=60.0, forget=True)
    assert [entry.broker_addr for entry, _ in change.brokers] == ["10.0.0.1:10911"]
    assert change.topics == {"T": queue()}
    assert write(table, snapshot=GroupSnapshot(), now_s=121.0, forget=True) is None, "too long ago"
    assert table.route("T") is None


def test_broker_unregistered_elsewhere_is_not_written_back(table):
    register(table, broker(), ["T"])
    write(table)
    table.unregistered_elsewhere(A, {0: "10.0.0.1:10911"})
    assert write(table, snapshot=GroupSnapshot(), forget=True) is None
    assert table.route("T") is None


def test_topics_lost_by_the_registry_are_rewritten(table):
    register(table, broker(), ["T"])
    write(table)
    table.written(A, "", "r1")
    change = write(table, snapshot=GroupSnapshot({0: broker()}, ""))
    assert change.rewrite
    assert change.topics == {"T": queue()}


def test_slave_without_topics_does_not_clear_those_of_others(table):
    register(table, broker(1, "10.0.0.2:10911"))
    change = write(table, snapshot=GroupSnapshot({0: broker()}, ""))
    assert not change.rewrite
    assert change.topics == {}


@pytest.mark.parametrize(
    ("mine", "theirs"),
    [
        ({"counter": 1}, {"counter": 2}),
        ({"state": 1, "counter": 9}, {"state": 2}),
        ({"registered_ms": 10}, {"registered_ms": 20, "addr": "10.0.0.9:10911"}),
        ({"state": 1, "registered_ms": 20}, {"state": 2, "registered_ms": 10, "addr": "10.0.0.9:10911"}),
        ({"registered_ms": 10, "addr": "10.0.0.1:1"}, {"registered_ms": 10, "addr": "10.0.0.2:1"}),
    ],
)
def test_two_name_servers_agree_which_entry_is_newer(mine, theirs):
    older, newer = SharedRouteTable(), SharedRouteTable()
    register(older, broker(**mine), ["T"])
    register(newer, broker(**theirs), ["T"])
    for table in (older, newer):
        write(table)
    older.merge(A, GroupSnapshot({0: broker(**theirs)}, "r", {"T": queue()}), 0.0, forget=True)
    newer.merge(A, GroupSnapshot({0: broker(**mine)}, "r", {"T": queue()}), 0.0, forget=True)
    assert older.member(A, 0).broker == newer.member(A, 0).broker == broker(**theirs)
    assert A not in older.changes
    assert newer.changes[A].written == {0}


def test_slave_promoted_elsewhere_is_not_written_back_as_slave(table):
    register(table, broker(1, "10.0.0.2:10911", registered_ms=10))
    write(table)
    became = broker(0, "10.0.0.2:10911", counter=2, registered_ms=20)
    assert write(table, snapshot=GroupSnapshot({0: became}, "r", {"T": queue()}), forget=True) is None
    assert table.addresses_of(A) == {0: "10.0.0.2:10911"}


def test_one_merge_replaces_all_members(table):
    table.merge(A, GroupSnapshot({0: broker()}, "r1", {"T": queue()}), 0.0, forget=True)
    table.merge(A, GroupSnapshot({1: broker(1, "10.0.0.2:10911")}, "r1", None), 0.0, forget=True)
    assert table.addresses_of(A) == {1: "10.0.0.2:10911"}
    assert table.topics() == ["T"]
