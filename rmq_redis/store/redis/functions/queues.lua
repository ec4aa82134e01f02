-- Queues: appending records, how far queues reach, removing their oldest records.

-- keys: epoch, stream...; args: epoch, then of each stream (number of records, last sequence known), records...
-- Returns the ID of the last record of each stream; those before it are consecutive. It is written with "_" for "-"
-- where the stream had disappeared.
local function append(keys, args)
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
end

-- keys: epoch, stream...; args: epoch, sequence of each stream's last ID to be, if it is lower now.
local function raise_ends(keys, args)
  for k = 2, #keys do raise(keys[k], args[k]) end
  return #keys - 1
end

-- keys: stream...; no args.
-- Returns for each: sequence of the first entry (0: none), sequence of the last ID given out.
local function queue_info(keys, args)
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
end

-- keys: epoch, stream; args: epoch, sequence of the first entry that stays.
-- Returns the sequence of the entry that is the first now (0: none), and the beginning of its record.
-- What a consumer group still had pending of the removed entries is forgotten with them.
local function trim(keys, args)
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
end

-- keys: stream...; args: samples.
-- Returns for each the bytes of memory that it takes, estimated from its oldest nodes.
local function memory_usage(keys, args)
  local result = {}
  for k = 1, #keys do result[k] = redis.call('MEMORY', 'USAGE', keys[k], 'SAMPLES', args[1]) or 0 end
  return result
end

return {append, raise_ends, queue_info, trim, memory_usage}
