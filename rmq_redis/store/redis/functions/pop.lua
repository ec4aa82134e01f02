-- Messages that POP has handed out, and that are hidden until a time.

-- keys: epoch, waiting, consumed, then a stream and its offsets hash for each queue.
-- args: epoch, group, visible again (ms), then for each: "<group>:<topic>", queueId, next offset, n, n sequences.
-- Entries become pending of the Redis consumer group without a read of it: a filter has chosen them already.
-- Returns for each queue the IDs that are pending now (the others were removed meanwhile).
local function pop(keys, args)
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
end

-- keys: epoch, waiting, stream...; args: epoch, then for each: number of the stream's key, group, sequence, member,
-- visible again (ms). Returns for each 1, or 0 when the message is not pending until then (any more).
local function pop_ack(keys, args)
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
end

-- keys: epoch, waiting; args: epoch, member, visible again (ms), the same from now on. Returns 1, or 0 as above.
local function pop_change(keys, args)
  local score = redis.call('ZSCORE', keys[2], args[2])
  if not score or tonumber(score) ~= tonumber(args[3]) then return 0 end
  redis.call('ZADD', keys[2], args[4], args[2])
  return 1
end

-- keys: epoch, waiting, stream...; args: epoch, then for each: number of the stream's key (0: deleted), group,
-- sequence, member, visible again (ms), number of the target stream's key (0: nowhere), record, last sequence known
-- of the target.
-- An entry that is not pending is left alone: its topic was deleted, and the entry belongs to a recreated one.
-- Returns for each the ID of its new entry, or '' when it has none.
local function pop_revive(keys, args)
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
end

return {pop, pop_ack, pop_change, pop_revive}
