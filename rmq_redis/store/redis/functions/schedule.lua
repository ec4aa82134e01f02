-- Messages that appear later: delayed messages, timers, retries.

-- keys: epoch, due times, records, recallable; args: epoch, then (due ms, id, record, recall key or '').
-- A message that waits already was sent once more after a lost answer: it is not added. Only the last four of its
-- recall key are compared, so that the work has a bound. Returns for each {id, due ms, queueId (4 bytes)} of the
-- first one, or '' if it was added.
local function schedule(keys, args)
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
end

-- keys: due times, records; args: now in ms, largest number of records, bytes after which no further one is taken.
-- Returns when the earliest is due ('' for never), then (id, record or '') of those that are due.
local function due(keys, args)
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
end

-- keys: epoch, due times, records, recallable, stream...
-- args: epoch, store time (8 bytes), last sequence known of each stream...,
-- then (number of the stream's key or 0, id, recall key or '').
-- Returns for each the ID of its entry, or '' when it was not there any more or, with 0, is only dropped.
-- The entry is added first: should that fail, the message is where it was. A record's store time is behind its
-- born host.
local function move_due(keys, args)
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
end

-- keys: epoch, due times, records, recallable; args: epoch, recall key. Returns how many messages were taken away.
local function recall(keys, args)
  local ids, recalled = redis.call('HGET', keys[4], args[2]), 0
  if not ids then return 0 end
  for i = 1, #ids, 16 do
    local id = string.sub(ids, i, i + 15)
    recalled = recalled + redis.call('ZREM', keys[2], id)
    redis.call('HDEL', keys[3], id)
  end
  redis.call('HDEL', keys[4], args[2])
  return recalled
end

-- keys: epoch, mark, due times, records, dead-letter stream
-- args: epoch, due ms ('': it becomes a dead letter), id of a retry, record, physical offset of what failed ('' if
-- not known), ms that the mark stays, last sequence known of the dead-letter stream.
-- The mark is "<r or d><physical offset>:<id>". A message whose retry waits still, or whose dead letter is there,
-- was given back once more after a lost answer: it is not added.
-- Returns {id, ''}, or {id, queueId (4 bytes)} of the first one.
local function give_back(keys, args)
  -- Whether two records are one message given back twice: a client that resends it itself may compress it once more.
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
end

return {schedule, due, move_due, recall, give_back}
