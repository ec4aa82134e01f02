-- Committed offsets, their resets, and the locks of orderly consumers.

-- keys: epoch, consumed set, offsets hash...; args: epoch, for each hash: its member, n, n * (queueId, offset)
local function commit_offsets(keys, args)
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
end

-- keys: epoch, consumed set, offsets hash, resets hash; args: epoch, the hash's member, n * (queueId, offset)
local function reset_offsets(keys, args)
  redis.call('SADD', keys[2], args[2])
  for a = 3, #args, 2 do
    redis.call('HSET', keys[3], args[a], args[a + 1])
    redis.call('HSET', keys[4], args[2] .. ':' .. args[a], args[a + 1])
  end
  return #args
end

-- keys: epoch, resets hash; args: epoch, field...
local function end_resets(keys, args)
  local ended = 0
  for a = 2, #args do ended = ended + redis.call('HDEL', keys[2], args[a]) end
  return ended
end

-- keys: epoch, locks hash; args: epoch, value ('': none), field...
local function put_locks(keys, args)
  for a = 3, #args do
    if args[2] == '' then redis.call('HDEL', keys[2], args[a]) else redis.call('HSET', keys[2], args[a], args[2]) end
  end
  return #args - 2
end

return {commit_offsets, reset_offsets, end_resets, put_locks}
