"""Lua that recognises a message sent once more after a lost answer; ``functions.py`` makes functions of it.

A repeat is recognised in the call that would store it, by what the store holds: neither a restart of the broker nor a
failover forgets the first one.
"""

from __future__ import annotations

SAME = """
-- A record's body, topic and properties. Hosts are longer if they are IPv6 (sysFlag), a topic's length if it is V2.
local function parts(record)
  local flags = math.floor(string.byte(record, 40) / 16)
  local at = 85 + 12 * (flags % 2) + 12 * (math.floor(flags / 2) % 2)
  local a, b, c, d = string.byte(record, at, at + 3)
  local behind = at + 4 + ((a * 256 + b) * 256 + c) * 256 + d
  local size, topic = 1, string.byte(record, behind)
  if string.byte(record, 8) == 171 then size, topic = 2, topic * 256 + string.byte(record, behind + 1) end
  local properties = behind + size + topic
  return string.sub(record, at + 4, behind - 1), string.sub(record, behind + size, properties - 1),
    string.sub(record, properties + 2)
end
-- Whether two records are of one message: all that its producer said is equal. The queue may be another one.
local function same(one, other)
  if string.sub(one, 9, 12) ~= string.sub(other, 9, 12) or string.sub(one, 17, 20) ~= string.sub(other, 17, 20) then
    return false
  end
  local body, topic, properties = parts(one)
  local other_body, other_topic, other_properties = parts(other)
  local real = 'REAL_TOPIC\\1[^\\2]*\\2REAL_QID\\1%d+\\2'
  return body == other_body and topic == other_topic
    and string.gsub(properties, real, '') == string.gsub(other_properties, real, '')
end
"""

SCHEDULE = """
local function waiting(ids, record)
  for i = math.max(1, #ids - 63), #ids, 16 do
    local id = string.sub(ids, i, i + 15)
    local other, due = redis.call('HGET', keys[3], id), redis.call('ZSCORE', keys[2], id)
    if other and due and same(other, record) then return {id, due, string.sub(other, 13, 16)} end
  end
end
local answers = {}
for a = 2, #args, 4 do
  local id, record, recall = args[a + 1], args[a + 2], args[a + 3]
  local ids = recall ~= '' and redis.call('HGET', keys[4], recall) or ''
  local first = waiting(ids, record)
  if not first then
    redis.call('ZADD', keys[2], args[a], id)
    redis.call('HSET', keys[3], id, record)
    if recall ~= '' then redis.call('HSET', keys[4], recall, ids .. id) end
  end
  answers[#answers + 1] = first or ''
end
return answers
"""

PREPARE = """
local answers = {}
for a = 2, #args, 3 do
  local record, key = args[a + 1], args[a + 2]
  local number = key ~= '' and redis.call('HGET', keys[5], key)
  local held = number and redis.call('HGET', keys[2], number)
  if held and same(held, record) then
    answers[#answers + 1] = {tonumber(number), string.sub(held, 13, 16)}
  else
    number = redis.call('INCR', keys[4]) - 1
    redis.call('HSET', keys[2], number, record)
    redis.call('ZADD', keys[3], args[a], number)
    if key ~= '' then redis.call('HSET', keys[5], key, number) end
    answers[#answers + 1] = {number, ''}
  end
end
return answers
"""

GIVE_BACK = """
-- Whether two records are one message given back twice: a client that sends it itself may compress it anew.
local function alike(one, other)
  local compressed = string.byte(one, 40) % 2 + string.byte(other, 40) % 2
  return compressed > 0 or parts(one) == parts(other)
end
local function first_of(mark)
  local colon = string.find(mark, ':', 1, true)
  local kind, source, id = string.sub(mark, 1, 1), string.sub(mark, 2, colon - 1), string.sub(mark, colon + 1)
  if source ~= args[5] and source ~= '' and args[5] ~= '' then return end  -- two messages with one unique key
  local held
  if kind == 'r' then
    held = redis.call('HGET', keys[4], id)
  else
    local entry = redis.call('XRANGE', keys[5], id, id)[1]
    held = entry and entry[2][2]
  end
  if held and alike(held, args[4]) then return {id, string.sub(held, 13, 16)} end
end
local mark = redis.call('GET', keys[2])
local first = mark and first_of(mark)
if first then return first end
local kind, id = 'r', args[3]
if args[2] == '' then
  kind, id = 'd', add(keys[5], args[7], args[4])
else
  redis.call('ZADD', keys[3], args[2], id)
  redis.call('HSET', keys[4], id, args[4])
end
redis.call('SET', keys[2], kind .. args[5] .. ':' .. id, 'PX', args[6])
return {id, ''}
"""
