-- Batches that POP has handed out in order.

-- The text of an ordered batch (see store/group/pop_order.py) is "<next offset> <pop time> <attempt>", and of each
-- message ";<offset> <visible again> <times>". A POP says which text it thinks there is, and is refused otherwise.
--
-- keys: epoch, ordered hash, consumed, then a stream and its offsets hash for each queue, [dead-letter stream].
-- args: epoch, group, number of queues, last sequence known of the dead-letter stream, then for each queue:
-- "<group>:<topic>", queueId, text before, text from now on ('': none), the group's offset, end of what was given
-- out, n, n sequences that become pending, n, n sequences that are no longer, n, n records for the dead letters.
-- Returns for each queue {1, ID of the last record or nothing}, or {0, the text there is, the group's offset}.
local function pop_order(keys, args)
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
end

-- keys: epoch, ordered hash, stream, offsets hash; args: epoch, field, group, queueId, pop time, offset...
-- The group's offset goes to the first that is left, or to the end of the batch, unless somebody set another.
-- Returns the text there is now ('': none), and the group's offset if it is of this batch ('' otherwise).
local function ack_order(keys, args)
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
end

-- keys: epoch, ordered hash; args: epoch, field, pop time, offset, visible again from now on.
-- Returns the text there is now, and 1, or 0 when the message is not out since that pop time (any more).
local function change_order(keys, args)
  local text = redis.call('HGET', keys[2], args[2])
  if not text then return {'', 0} end
  if string.match(text, '^%d+ (%d+)') ~= args[3] then return {text, 0} end
  local first, last, visible, times = string.find(text, ';' .. args[4] .. ' (%d+) (%d+)')
  if not first or visible == '0' then return {text, 0} end
  local message = ';' .. args[4] .. ' ' .. args[5] .. ' ' .. times
  text = string.sub(text, 1, first - 1) .. message .. string.sub(text, last + 1)
  redis.call('HSET', keys[2], args[2], text)
  return {text, 1}
end

-- keys: epoch, ordered hash, waiting, stream, offsets hash
-- args: epoch, field, text before, group, queueId, the group's offset, visible again (ms), sequence...
-- With a time its messages become hidden ones until then, as "pop" makes them; with '' they and the offset are left,
-- and they are pending no longer, unless they were hidden by another POP meanwhile.
-- Returns the text there is now ('' unless it was another), and the group's offset.
local function end_order(keys, args)
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
end

return {pop_order, ack_order, change_order, end_order}
