-- Helpers of several subjects. The files of this folder are joined to one library, in which they see one another.

-- Has a function run only for the current master. keys[1]: epoch of the group; args[1]: epoch of the caller.
-- An older caller is refused with FENCED. Epochs only grow, so one that is missing, or smaller than the caller's, says
-- that the server has lost data (a flush, an older snapshot, a restart without persistence): refused with LOST.
local function fenced(body)
  return function(keys, args)
    local held = redis.call('GET', keys[1])
    if held ~= args[1] then
      if not held or tonumber(held) < tonumber(args[1]) then
        return redis.error_reply('LOST epoch ' .. args[1] .. ' is unknown, the group is at ' .. tostring(held))
      end
      return redis.error_reply('FENCED epoch ' .. args[1] .. ' is over, the group is at ' .. tostring(held))
    end
    return body(keys, args)
  end
end

-- Adds a record behind a known end of its stream: if the stream has disappeared, its offsets stay used.
-- Returns the ID of the entry, and whether the stream had disappeared.
local function add(key, floor, record)
  local id = redis.call('XADD', key, '0-*', 'm', record)
  if tonumber(string.sub(id, 3)) > tonumber(floor) then return id, false end
  redis.call('XDEL', key, id)
  return redis.call('XADD', key, '0-' .. string.format('%.0f', floor + 1), 'm', record), true
end

-- Has the next entry of a stream come behind the sequence `last`, unless it does already.
local function raise(key, last)
  local id = '0-' .. last
  if type(redis.pcall('XADD', key, id, 'm', '')) == 'string' then redis.call('XDEL', key, id) end
end

return {fenced, add, raise}
