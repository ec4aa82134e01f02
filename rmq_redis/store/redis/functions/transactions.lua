-- Half messages of transactions.

-- keys: epoch, half hash, checks sorted set, counter, half keys
-- args: epoch, then (check ms, record, its key or '').
-- One that is held already was sent once more after a lost answer: it is not added.
-- Returns for each {number, ''}, or {number, queueId (4 bytes)} of the first one.
local function prepare(keys, args)
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
end

-- keys: epoch, half hash, checks sorted set, counts hash, half keys, [stream]
-- args: epoch, number, its key or '', [record, last sequence known].
-- Returns the ID of the entry, or 1 without a stream; '' or 0 when it was decided already.
local function end_half(keys, args)
  if redis.call('HDEL', keys[2], args[2]) == 0 then
    if keys[6] then return '' end
    return 0
  end
  redis.call('ZREM', keys[3], args[2])
  redis.call('HDEL', keys[4], args[2])
  if args[3] ~= '' and redis.call('HGET', keys[5], args[3]) == args[2] then redis.call('HDEL', keys[5], args[3]) end
  if keys[6] then return (add(keys[6], args[5], args[4])) end
  return 1
end

-- keys: epoch, checks sorted set, counts hash; args: epoch, number, now ms, first pause ms, longest pause ms.
-- The pause doubles with every check. Returns the checks so far, this one included; 0 when it was decided.
local function checked_half(keys, args)
  if redis.call('ZSCORE', keys[2], args[2]) then
    local times = redis.call('HINCRBY', keys[3], args[2], 1)
    local pause = math.min(tonumber(args[4]) * 2 ^ math.min(times - 1, 30), tonumber(args[5]))
    redis.call('ZADD', keys[2], string.format('%.0f', tonumber(args[3]) + pause), args[2])
    return times
  end
  return 0
end

return {prepare, end_half, checked_half}
