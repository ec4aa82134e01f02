-- Configurations of topics and consumer groups, and what goes with a topic or group that is deleted.

-- keys: epoch, hash, version; args: epoch, field, value. Returns the new version.
local function put(keys, args)
  redis.call('HSET', keys[2], args[2], args[3])
  return redis.call('INCR', keys[3])
end

-- keys: epoch, version, count of queue numbers, topics hash, groups hash
-- args: epoch, least version, least count, n, n * (topic, value), then (group, value)...
-- Writes what is missing or different. Returns the version: a new one if that was anything, or if it was behind.
local function put_again(keys, args)
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
end

-- keys: epoch, retired hash; args: epoch, then (topic, sequence behind which its queues begin if it returns)...
local function put_retired(keys, args)
  for a = 2, #args, 2 do
    if tonumber(redis.call('HGET', keys[2], args[a]) or 0) < tonumber(args[a + 1]) then
      redis.call('HSET', keys[2], args[a], args[a + 1])
    end
  end
  return #args
end

-- keys: epoch, topics hash, version, retired hash, stream... of new queues; args: epoch, topic, value.
-- Queues of a topic that existed before begin behind their predecessors. Returns where they begin.
local function put_topic(keys, args)
  redis.call('HSET', keys[2], args[2], args[3])
  redis.call('INCR', keys[3])
  local last = redis.call('HGET', keys[4], args[2])
  if not last then return 0 end
  for k = 5, #keys do raise(keys[k], last) end
  return tonumber(last)
end

-- keys: epoch, hash, version, consumed set, waiting, ordered hash, retired hash, stream..., other key to remove...
-- args: epoch, number of fields, field..., number of streams, "<topic>:<queueId>" of each, consumed members...
-- What POP has hidden of the streams, or given out in order, goes with them. Returns the new version.
local function remove(keys, args)
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
end

return {put, put_again, put_retired, put_topic, remove}
