"""The server-side functions: what must happen atomically, and only while this master is the group's master.

They are loaded as a library of Redis Functions under a name that contains a digest of their text, so brokers of two
versions can share a server. Servers without functions (fakeredis in unit tests) get the same bodies by EVAL.
Every function's first key is the group's epoch and its first argument the caller's: an older caller is refused with
``FENCED``, except in the read-only ones and in those that decide who is master (``take_lease``, ``claim_slave_id``).
Epochs only grow, so one that is missing, or smaller than the caller's, says that the server has lost what it had (a
flush, an older snapshot, a restart without persistence): that is refused with ``LOST``.
"""

from __future__ import annotations

import hashlib

from .repeat_functions import GIVE_BACK, PREPARE, SAME, SCHEDULE

_GUARD = """
local held = redis.call('GET', keys[1])
if held ~= args[1] then
  if not held or tonumber(held) < tonumber(args[1]) then
    return redis.error_reply('LOST epoch ' .. args[1] .. ' is unknown, the group is at ' .. tostring(held))
  end
  return redis.error_reply('FENCED epoch ' .. args[1] .. ' is over, the group is at ' .. tostring(held))
end
"""

_ADD = """
-- Adds a record behind a known end of its stream: should the stream have disappeared, its offsets stay used.
local function add(key, floor, record)
  local id = redis.call('XADD', key, '0-*', 'm', record)
  if tonumber(string.sub(id, 3)) > tonumber(floor) then return id, false end
  redis.call('XDEL', key, id)
  return redis.call('XADD', key, '0-' .. string.format('%.0f', floor + 1), 'm', record), true
end
"""

_RAISE = """
local function raise(key, last)
  local id = '0-' .. last
  if type(redis.pcall('XADD', key, id, 'm', '')) == 'string' then redis.call('XDEL', key, id) end
end
"""

_FORGET_SCHEDULED = """
local function forget(id, recall)
  redis.call('ZREM', keys[2], id)
  redis.call('HDEL', keys[3], id)
  if recall == '' then return end
  local ids = redis.call('HGET', keys[4], recall)
  if ids == id then
    redis.call('HDEL', keys[4], recall)
  elseif ids then  -- several messages with one unique key: a send that was repeated
    local others = ''
    for i = 1, #ids, 16 do
      local other = string.sub(ids, i, i + 15)
      if other ~= id then others = others .. other end
    end
    redis.call('HSET', keys[4], recall, others)
  end
end
"""

BODIES: dict[str, str] = {
    # keys: epoch, lease, slave id...; args: now (ms), address, lease (ms). The new epoch; '' when another has it.
    # The epoch is at least the time: even a primary that lost the last one gives no epoch out twice.
    "take_lease": """
local holder = redis.call('GET', keys[2])
if holder and holder ~= args[2] then return '' end
local epoch = math.max(tonumber(redis.call('GET', keys[1]) or 0) + 1, tonumber(args[1]))
epoch = string.format('%.0f', epoch)
redis.call('SET', keys[1], epoch)
redis.call('SET', keys[2], args[2], 'PX', args[3])
for k = 3, #keys do
  if redis.call('GET', keys[k]) == args[2] then redis.call('DEL', keys[k]) end
end
return epoch
""",
    # keys: epoch, lease; args: epoch, address, lease (ms).
    "renew_lease": _GUARD
    + """
redis.call('SET', keys[2], args[2], 'PX', args[3])
return 1
""",
    # keys: epoch, lease; args: epoch.
    "release_lease": _GUARD
    + """
return redis.call('DEL', keys[2])
""",
    # keys: lease, epoch, slave id...; args: address, ms, the id wanted (0: any), the ids of the keys.
    # Returns the id that the address has now (0: all are taken), the address of the master ('': nobody), the epoch.
    "claim_slave_id": """
local mine, free, wanted = 0, 0, 0
for k = 3, #keys do
  local holder = redis.call('GET', keys[k])
  if holder == args[1] then mine = k end
  if not holder or holder == args[1] then
    if free == 0 then free = k end
    if args[k + 1] == args[3] then wanted = k end
  end
end
local claimed = mine
if wanted > 0 then claimed = wanted elseif mine == 0 then claimed = free end
if mine > 0 and claimed ~= mine then redis.call('DEL', keys[mine]) end
local id = 0
if claimed > 0 then
  redis.call('SET', keys[claimed], args[1], 'PX', args[2])
  id = tonumber(args[claimed + 1])
end
return {id, redis.call('GET', keys[1]) or '', redis.call('GET', keys[2]) or '0'}
""",
    # keys: epoch, stream...; args: epoch, sequence of each stream's last ID to be, if it is not there yet.
    "raise_ends": _GUARD
    + _RAISE
    + """
for k = 2, #keys do raise(keys[k], args[k]) end
return #keys - 1
""",
    # keys: epoch, stream...; args: epoch, then of each stream (number of records, last sequence known), records...
    # Returns the ID of the last record of each stream; those before it are consecutive. It is written with "_" for "-"
    # where the stream had disappeared.
    "append": _GUARD
    + _ADD
    + """
local ids, a = {}, 2 * #keys - 1
for k = 2, #keys do
  local key, nums, floor = keys[k], tonumber(args[2 * k - 2]), args[2 * k - 1]
  local id, was_lost = add(key, floor, args[a + 1])
  for r = a + 2, a + nums do id = redis.call('XADD', key, '0-*', 'm', args[r]) end
  a = a + nums
  if was_lost then id = '0_' .. string.sub(id, 3) end
  ids[k - 1] = id
end
return ids
""",
    # keys: epoch, consumed set, offsets hash...; args: epoch, for each hash: its member, n, n * (queueId, offset)
    "commit_offsets": _GUARD
    + """
local a = 2
for k = 3, #keys do
  redis.call('SADD', keys[2], args[a])
  local n = tonumber(args[a + 1])
  a = a + 2
  for _ = 1, n do
    redis.call('HSET', keys[k], args[a], args[a + 1])
    a = a + 2
  end
end
return #keys - 2
""",
    # keys: epoch, consumed set, offsets hash, resets hash; args: epoch, the hash's member, n * (queueId, offset)
    "reset_offsets": _GUARD
    + """
redis.call('SADD', keys[2], args[2])
for a = 3, #args, 2 do
  redis.call('HSET', keys[3], args[a], args[a + 1])
  redis.call('HSET', keys[4], args[2] .. ':' .. args[a], args[a + 1])
end
return #args
""",
    # keys: epoch, resets hash; args: epoch, field...
    "end_resets": _GUARD
    + """
local ended = 0
for a = 2, #args do ended = ended + redis.call('HDEL', keys[2], args[a]) end
return ended
""",
    # keys: epoch, locks hash; args: epoch, value ('': none), field...
    "put_locks": _GUARD
    + """
for a = 3, #args do
  if args[2] == '' then redis.call('HDEL', keys[2], args[a]) else redis.call('HSET', keys[2], args[a], args[2]) end
end
return #args - 2
""",
    # keys: epoch, hash, version; args: epoch, field, value. Returns the new version.
    "put": _GUARD
    + """
redis.call('HSET', keys[2], args[2], args[3])
return redis.call('INCR', keys[3])
""",
    # keys: epoch, version, count of queue numbers, topics hash, groups hash
    # args: epoch, least version, least count, n, n * (topic, value), then (group, value)...
    # Writes what is missing or different. Returns the version: a new one if that was anything, or if it was behind.
    "put_again": _GUARD
    + """
local function least(key, value)
  if tonumber(redis.call('GET', key) or 0) < tonumber(value) then redis.call('SET', key, value) end
end
least(keys[3], args[3])
local changed = tonumber(redis.call('GET', keys[2]) or 0) < tonumber(args[2])
local groups_from = 5 + 2 * tonumber(args[4])
for a = 5, #args, 2 do
  local key = keys[4]
  if a >= groups_from then key = keys[5] end
  if redis.call('HGET', key, args[a]) ~= args[a + 1] then
    redis.call('HSET', key, args[a], args[a + 1])
    changed = true
  end
end
if changed then
  least(keys[2], args[2])
  redis.call('INCR', keys[2])
end
return tonumber(redis.call('GET', keys[2]) or 0)
""",
    # keys: epoch, retired hash; args: epoch, then (topic, sequence behind which its queues begin if it returns)...
    "put_retired": _GUARD
    + """
for a = 2, #args, 2 do
  if tonumber(redis.call('HGET', keys[2], args[a]) or 0) < tonumber(args[a + 1]) then
    redis.call('HSET', keys[2], args[a], args[a + 1])
  end
end
return #args
""",
    # keys: epoch, topics hash, version, retired hash, stream... of new queues; args: epoch, topic, value.
    # Queues of a topic that existed before begin behind their predecessors. Returns where they begin.
    "put_topic": _GUARD
    + _RAISE
    + """
redis.call('HSET', keys[2], args[2], args[3])
redis.call('INCR', keys[3])
local last = redis.call('HGET', keys[4], args[2])
if not last then return 0 end
for k = 5, #keys do raise(keys[k], last) end
return tonumber(last)
""",
    # keys: epoch, hash, version, consumed set, waiting, ordered hash, retired hash, stream..., other key to remove...
    # args: epoch, number of fields, field..., number of streams, "<topic>:<queueId>" of each, consumed members...
    # What POP has hidden of the streams, or given out in order, goes with them. Returns the new version.
    "remove": _GUARD
    + """
local function forget_hidden(stream, queue)
  local groups = redis.pcall('XINFO', 'GROUPS', stream)
  if groups['err'] then return end
  for _, info in ipairs(groups) do
    local group
    for i = 1, #info, 2 do
      if info[i] == 'name' then group = info[i + 1] end
    end
    repeat
      local pending = redis.call('XPENDING', stream, group, '-', '+', 500)
      for _, entry in ipairs(pending) do
        redis.call('ZREM', keys[5], group .. ':' .. queue .. ':' .. string.sub(entry[1], 3))
        redis.call('XACK', stream, group, entry[1])
      end
    until #pending < 500
  end
end
-- The largest offset of a topic stays known: members that are online must not take a new message for an old one.
local function retire(stream, queue)
  if redis.call('EXISTS', stream) == 0 then return end
  local info, topic = redis.call('XINFO', 'STREAM', stream), string.match(queue, '^(.*):%d+$')
  for i = 1, #info, 2 do
    if info[i] == 'last-generated-id' then
      local last = tonumber(string.match(info[i + 1], '-(%d+)$'))
      if last > tonumber(redis.call('HGET', keys[7], topic) or 0) then
        redis.call('HSET', keys[7], topic, string.format('%.0f', last))
      end
    end
  end
end
local a = 3
for _ = 1, tonumber(args[2]) do
  redis.call('HDEL', keys[2], args[a])
  a = a + 1
end
local streams = tonumber(args[a])
for k = 8, 7 + streams do
  forget_hidden(keys[k], args[a + k - 7])
  retire(keys[k], args[a + k - 7])
end
for k = 8, #keys do redis.call('UNLINK', keys[k]) end
for i = a + streams + 1, #args do
  redis.call('SREM', keys[4], args[i])
  for _, field in ipairs(redis.call('HKEYS', keys[6])) do
    if string.sub(field, 1, #args[i] + 1) == args[i] .. ':' then redis.call('HDEL', keys[6], field) end
  end
end
return redis.call('INCR', keys[3])
""",
    # keys: epoch, due times, records, recallable; args: epoch, then (due ms, id, record, recall key or '').
    # A message that waits already was sent once more after a lost answer: it is not added. Only the last four of its
    # recall key are compared, so that the work has a bound. Returns for each {id, due ms, queueId (4 bytes)} of the
    # first one, or '' if it was added.
    "schedule": _GUARD + SAME + SCHEDULE,
    # keys: epoch, mark, due times, records, dead-letter stream
    # args: epoch, due ms ('': it becomes a dead letter), id of a retry, record, physical offset of what failed ('' if
    # not known), ms that the mark stays, last sequence known of the dead-letter stream.
    # The mark is "<r or d><physical offset>:<id>". A message whose retry waits still, or whose dead letter is there,
    # was given back once more after a lost answer: it is not added.
    # Returns {id, ''}, or {id, queueId (4 bytes)} of the first one.
    "give_back": _GUARD + _ADD + SAME + GIVE_BACK,
    # keys: due times, records; args: now in ms, largest number of records, bytes after which no further one is taken.
    # Returns when the earliest is due ('' for never), then (id, record or '') of those that are due.
    "due": """
local first = redis.call('ZRANGE', keys[1], 0, 0, 'WITHSCORES')
if not first[2] then return {''} end
local result, size = {first[2]}, 0
if tonumber(first[2]) > tonumber(args[1]) then return result end
for _, id in ipairs(redis.call('ZRANGEBYSCORE', keys[1], '-inf', args[1], 'LIMIT', 0, args[2])) do
  local record = redis.call('HGET', keys[2], id) or ''
  result[#result + 1] = id
  result[#result + 1] = record
  size = size + #record
  if size >= tonumber(args[3]) then break end
end
return result
""",
    # keys: epoch, due times, records, recallable, stream...
    # args: epoch, store time (8 bytes), last sequence known of each stream...,
    # then (number of the stream's key or 0, id, recall key or '').
    # Returns for each the ID of its entry, or '' when it was not there any more or, with 0, is only dropped.
    # The entry is added first: should that fail, the message is where it was. A record's store time is behind its
    # born host.
    "move_due": _GUARD
    + _FORGET_SCHEDULED
    + _ADD
    + """
local ids = {}
for a = #keys - 1, #args, 3 do
  local id, entry = args[a + 1], ''
  local record = redis.call('HGET', keys[3], id)
  if record and args[a] ~= '0' then
    local before = 56
    if math.floor(string.byte(record, 40) / 16) % 2 == 1 then before = 68 end  -- sysFlag: the born host is IPv6
    record = string.sub(record, 1, before) .. args[2] .. string.sub(record, before + 9)
    local k = tonumber(args[a])
    entry = add(keys[k], args[k - 2], record)
  end
  forget(id, args[a + 2])
  ids[#ids + 1] = entry
end
return ids
""",
    # keys: epoch, due times, records, recallable; args: epoch, recall key. Returns how many messages were taken away.
    "recall": _GUARD
    + """
local ids, recalled = redis.call('HGET', keys[4], args[2]), 0
if not ids then return 0 end
for i = 1, #ids, 16 do
  local id = string.sub(ids, i, i + 15)
  recalled = recalled + redis.call('ZREM', keys[2], id)
  redis.call('HDEL', keys[3], id)
end
redis.call('HDEL', keys[4], args[2])
return recalled
""",
    # keys: epoch, half hash, checks sorted set, counter, half keys
    # args: epoch, then (check ms, record, its key or '').
    # One that is held already was sent once more after a lost answer: it is not added.
    # Returns for each {number, ''}, or {number, queueId (4 bytes)} of the first one.
    "prepare": _GUARD + SAME + PREPARE,
    # keys: epoch, half hash, checks sorted set, counts hash, half keys, [stream]
    # args: epoch, number, its key or '', [record, last sequence known].
    # Returns the ID of the entry, or 1 without a stream; '' or 0 when it was decided already.
    "end_half": _GUARD
    + _ADD
    + """
if redis.call('HDEL', keys[2], args[2]) == 0 then
  if keys[6] then return '' end
  return 0
end
redis.call('ZREM', keys[3], args[2])
redis.call('HDEL', keys[4], args[2])
if args[3] ~= '' and redis.call('HGET', keys[5], args[3]) == args[2] then redis.call('HDEL', keys[5], args[3]) end
if keys[6] then return (add(keys[6], args[5], args[4])) end
return 1
""",
    # keys: epoch, checks sorted set, counts hash; args: epoch, number, now ms, first pause ms, longest pause ms.
    # The pause doubles with every check. Returns the checks so far, this one included; 0 when it was decided.
    "checked_half": _GUARD
    + """
if redis.call('ZSCORE', keys[2], args[2]) then
  local times = redis.call('HINCRBY', keys[3], args[2], 1)
  local pause = math.min(tonumber(args[4]) * 2 ^ math.min(times - 1, 30), tonumber(args[5]))
  redis.call('ZADD', keys[2], string.format('%.0f', tonumber(args[3]) + pause), args[2])
  return times
end
return 0
""",
    # keys: epoch, stream; args: epoch, sequence of the first entry that stays.
    # Returns the sequence of the entry that is the first now (0: none), and the beginning of its record.
    # What a consumer group still had pending of the removed entries is forgotten with them.
    "trim": _GUARD
    + """
if redis.call('XTRIM', keys[2], 'MINID', '=', '0-' .. args[2]) > 0 then
  for _, info in ipairs(redis.call('XINFO', 'GROUPS', keys[2])) do
    local group
    for i = 1, #info, 2 do
      if info[i] == 'name' then group = info[i + 1] end
    end
    repeat
      local pending = redis.call('XPENDING', keys[2], group, '-', '0-' .. tonumber(args[2]) - 1, 500)
      for _, entry in ipairs(pending) do redis.call('XACK', keys[2], group, entry[1]) end
    until #pending < 500
  end
end
local first = redis.call('XRANGE', keys[2], '-', '+', 'COUNT', 1)[1]
if not first then return {0, ''} end
return {tonumber(string.match(first[1], '-(%d+)$')), string.sub(first[2][2], 1, 80)}
""",
    # keys: stream...; args: samples.
    # Returns for each the bytes of memory that it takes, estimated from its oldest nodes.
    "memory_usage": """
local result = {}
for k = 1, #keys do result[k] = redis.call('MEMORY', 'USAGE', keys[k], 'SAMPLES', args[1]) or 0 end
return result
""",
    # keys: epoch, waiting, consumed, then a stream and its offsets hash for each queue.
    # args: epoch, group, visible again (ms), then for each: "<group>:<topic>", queueId, next offset, n, n sequences.
    # Entries become pending of the Redis consumer group without a read of it: a filter has chosen them already.
    # Returns for each queue the IDs that are pending now (the others were removed meanwhile).
    "pop": _GUARD
    + """
local result, a, group = {}, 4, args[2]
for k = 4, #keys, 2 do
  local stream, pair, queue_id, next_offset, n = keys[k], args[a], args[a + 1], args[a + 2], tonumber(args[a + 3])
  redis.call('SADD', keys[3], pair)
  redis.call('HSET', keys[k + 1], queue_id, next_offset)
  local at = '0-' .. next_offset
  local moved = redis.pcall('XGROUP', 'SETID', stream, group, at, 'ENTRIESREAD', next_offset)
  if moved['err'] then redis.call('XGROUP', 'CREATE', stream, group, at, 'ENTRIESREAD', next_offset) end
  local claimed = {}
  if n > 0 then
    local claim = {'XCLAIM', stream, group, 'pop', '0'}
    for i = a + 4, a + 3 + n do claim[#claim + 1] = '0-' .. args[i] end
    claim[#claim + 1] = 'FORCE'
    claim[#claim + 1] = 'JUSTID'
    claimed = redis.call(unpack(claim))
    for _, id in ipairs(claimed) do
      redis.call('ZADD', keys[2], args[3], pair .. ':' .. queue_id .. ':' .. string.sub(id, 3))
    end
  end
  result[#result + 1] = claimed
  a = a + 4 + n
end
return result
""",
    # keys: epoch, waiting, stream...; args: epoch, then for each: number of the stream's key, group, sequence, member,
    # visible again (ms). Returns for each 1, or 0 when the message is not pending until then (any more).
    "pop_ack": _GUARD
    + """
local result = {}
for a = 2, #args, 5 do
  local score, done = redis.call('ZSCORE', keys[2], args[a + 3]), 0
  if score and tonumber(score) == tonumber(args[a + 4]) then
    redis.call('ZREM', keys[2], args[a + 3])
    redis.pcall('XACK', keys[tonumber(args[a])], args[a + 1], '0-' .. args[a + 2])
    done = 1
  end
  result[#result + 1] = done
end
return result
""",
    # keys: epoch, waiting; args: epoch, member, visible again (ms), the same from now on. Returns 1, or 0 as above.
    "pop_change": _GUARD
    + """
local score = redis.call('ZSCORE', keys[2], args[2])
if not score or tonumber(score) ~= tonumber(args[3]) then return 0 end
redis.call('ZADD', keys[2], args[4], args[2])
return 1
""",
    # keys: epoch, waiting, stream...; args: epoch, then for each: number of the stream's key (0: it is gone), group,
    # sequence, member, visible again (ms), number of the target stream's key (0: nowhere), record, last sequence known
    # of the target.
    # What is not pending goes nowhere: its topic was deleted, and the entry there now is of one made anew.
    # Returns for each the ID of its new entry, or '' when it has none.
    "pop_revive": _GUARD
    + _ADD
    + """
local result = {}
for a = 2, #args, 8 do
  local score, id = redis.call('ZSCORE', keys[2], args[a + 3]), ''
  if score and tonumber(score) == tonumber(args[a + 4]) then
    redis.call('ZREM', keys[2], args[a + 3])
    local source, target = tonumber(args[a]), tonumber(args[a + 5])
    local ended = source > 0 and redis.pcall('XACK', keys[source], args[a + 1], '0-' .. args[a + 2])
    if target > 0 and ended == 1 then id = add(keys[target], args[a + 7], args[a + 6]) end
  end
  result[#result + 1] = id
end
return result
""",
    # The text of an ordered batch (see store/group/pop_order.py) is "<next offset> <pop time> <attempt>", and of each
    # message ";<offset> <visible again> <times>". A POP says which text it thinks there is, and is refused otherwise.
    #
    # keys: epoch, ordered hash, consumed, then a stream and its offsets hash for each queue, [dead-letter stream].
    # args: epoch, group, number of queues, last sequence known of the dead-letter stream, then for each queue:
    # "<group>:<topic>", queueId, text before, text from now on ('': none), the group's offset, end of what was given
    # out, n, n sequences that become pending, n, n sequences that are no longer, n, n records for the dead letters.
    # Returns for each queue {1, ID of the last record or nothing}, or {0, the text there is, the group's offset}.
    "pop_order": _GUARD
    + _ADD
    + """
local result, a, group = {}, 5, args[2]
local function sequences(command)
  local n = tonumber(args[a])
  for i = a + 1, a + n do command[#command + 1] = '0-' .. args[i] end
  a = a + n + 1
  return command, n
end
for q = 1, tonumber(args[3]) do
  local stream, offsets, pair, queue_id = keys[2 + 2 * q], keys[3 + 2 * q], args[a], args[a + 1]
  local before, text, offset, next_offset = args[a + 2], args[a + 3], args[a + 4], args[a + 5]
  local field, at = pair .. ':' .. queue_id, '0-' .. next_offset
  a = a + 6
  local claim, claims = sequences({'XCLAIM', stream, group, 'pop', '0'})
  local ack, acks = sequences({'XACK', stream, group})
  local dead = tonumber(args[a])
  local held = redis.call('HGET', keys[2], field) or ''
  if held ~= before then
    result[q] = {0, held, redis.call('HGET', offsets, queue_id) or ''}
  else
    result[q] = {1}
    local moved = redis.pcall('XGROUP', 'SETID', stream, group, at, 'ENTRIESREAD', next_offset)
    if moved['err'] then redis.call('XGROUP', 'CREATE', stream, group, at, 'ENTRIESREAD', next_offset) end
    for i = a + 1, a + dead do result[q][2] = add(keys[#keys], args[4], args[i]) end
    redis.call('SADD', keys[3], pair)
    redis.call('HSET', offsets, queue_id, offset)
    if text == '' then redis.call('HDEL', keys[2], field) else redis.call('HSET', keys[2], field, text) end
    if claims > 0 then
      claim[#claim + 1] = 'FORCE'
      claim[#claim + 1] = 'JUSTID'
      redis.call(unpack(claim))
    end
    if acks > 0 then redis.call(unpack(ack)) end
  end
  a = a + dead + 1
end
return result
""",
    # keys: epoch, ordered hash, stream, offsets hash; args: epoch, field, group, queueId, pop time, offset...
    # The group's offset goes to the first that is left, or to the end of the batch, unless somebody set another.
    # Returns the text there is now ('': none), and the group's offset if it is of this batch ('' otherwise).
    "ack_order": _GUARD
    + """
local text = redis.call('HGET', keys[2], args[2])
if not text then return {'', ''} end
local ours = redis.call('HGET', keys[4], args[4]) == string.match(text, ';(%d+)')
if string.match(text, '^%d+ (%d+)') == args[5] then
  for a = 6, #args do
    local first, last, visible = string.find(text, ';' .. args[a] .. ' (%d+) %d+')
    if first and visible ~= '0' then
      text = string.sub(text, 1, first - 1) .. string.sub(text, last + 1)
      redis.pcall('XACK', keys[3], args[3], '0-' .. string.format('%.0f', tonumber(args[a]) + 1))
    end
  end
end
local offset = string.match(text, ';(%d+)')
if offset then
  redis.call('HSET', keys[2], args[2], text)
else
  redis.call('HDEL', keys[2], args[2])
  offset, text = string.match(text, '^%d+'), ''
end
if not ours then return {text, ''} end
redis.call('HSET', keys[4], args[4], offset)
return {text, offset}
""",
    # keys: epoch, ordered hash; args: epoch, field, pop time, offset, visible again from now on.
    # Returns the text there is now, and 1, or 0 when the message is not out since that pop time (any more).
    "change_order": _GUARD
    + """
local text = redis.call('HGET', keys[2], args[2])
if not text then return {'', 0} end
if string.match(text, '^%d+ (%d+)') ~= args[3] then return {text, 0} end
local first, last, visible, times = string.find(text, ';' .. args[4] .. ' (%d+) (%d+)')
if not first or visible == '0' then return {text, 0} end
local message = ';' .. args[4] .. ' ' .. args[5] .. ' ' .. times
text = string.sub(text, 1, first - 1) .. message .. string.sub(text, last + 1)
redis.call('HSET', keys[2], args[2], text)
return {text, 1}
""",
    # keys: epoch, ordered hash, waiting, stream, offsets hash
    # args: epoch, field, text before, group, queueId, the group's offset, visible again (ms), sequence...
    # With a time its messages become hidden ones until then, as "pop" makes them; with '' they and the offset are left,
    # and they are pending no longer, unless they were hidden by another POP meanwhile.
    # Returns the text there is now ('' unless it was another), and the group's offset.
    "end_order": _GUARD
    + """
local held = redis.call('HGET', keys[2], args[2]) or ''
if held == args[3] then
  redis.call('HDEL', keys[2], args[2])
  held = ''
  for a = 8, #args do
    local member = args[2] .. ':' .. args[a]
    if args[7] ~= '' then
      redis.call('ZADD', keys[3], 'NX', args[7], member)
    elseif not redis.call('ZSCORE', keys[3], member) then
      redis.pcall('XACK', keys[4], args[4], '0-' .. args[a])
    end
  end
  if args[6] ~= '' then redis.call('HSET', keys[5], args[5], args[6]) end
end
return {held, redis.call('HGET', keys[5], args[5]) or ''}
""",
    # keys: stream...; no args.
    # Returns for each: sequence of the first entry (0: none), sequence of the last ID given out.
    "queue_info": """
local result = {}
for k = 1, #keys do
  local first, last = 0, 0
  if redis.call('EXISTS', keys[k]) == 1 then
    local info = redis.call('XINFO', 'STREAM', keys[k])
    for i = 1, #info, 2 do
      local name, value = info[i], info[i + 1]
      if name == 'last-generated-id' then
        last = tonumber(string.match(value, '-(%d+)$'))
      elseif name == 'first-entry' and type(value) == 'table' then
        first = tonumber(string.match(value[1], '-(%d+)$'))
      end
    end
  end
  result[#result + 1] = first
  result[#result + 1] = last
end
return result
""",
}

READ_ONLY = frozenset({"due", "memory_usage", "queue_info"})
GROWING = frozenset({"append", "give_back", "prepare", "schedule"})
"""Those that take in messages, which a server out of memory (``maxmemory``) refuses. All others go on: offsets are
committed, the oldest messages removed, due ones moved."""

_DIGEST = hashlib.sha1("".join(f"{name}{body}" for name, body in sorted(BODIES.items())).encode()).hexdigest()[:10]
LIBRARY_NAME = f"rmq_redis_{_DIGEST}"


def function_name(name: str) -> str:
    """The name under which a function is registered at the server."""
    return f"rmq_{name}_{_DIGEST}"


def library() -> str:
    """Text of the library, for FUNCTION LOAD REPLACE."""
    parts = [f"#!lua name={LIBRARY_NAME}\n"]
    for name, body in BODIES.items():
        flags = ""
        if name not in GROWING:
            flags = f", flags = {{'{'no-writes' if name in READ_ONLY else 'allow-oom'}'}}"
        parts.append(
            "redis.register_function{"
            f"function_name = '{function_name(name)}', callback = function(keys, args)\n{body}\nend{flags}}}\n"
        )
    return "".join(parts)


def script(name: str) -> str:
    """A function's body for EVAL."""
    return f"local keys, args = KEYS, ARGV\n{BODIES[name]}"
