-- Who is the master of a broker group, and the ids of its slaves.

-- keys: epoch, lease, slave id...; args: now (ms), address, lease (ms). The new epoch; '' when another has it.
-- The epoch is at least the time: even a primary that lost the last one gives no epoch out twice.
local function take_lease(keys, args)
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
end

-- keys: epoch, lease; args: epoch, address, lease (ms).
local function renew_lease(keys, args)
  redis.call('SET', keys[2], args[2], 'PX', args[3])
  return 1
end

-- keys: epoch, lease; args: epoch.
local function release_lease(keys, args)
  return redis.call('DEL', keys[2])
end

-- keys: lease, epoch, slave id...; args: address, ms, the id wanted (0: any), the ids of the keys.
-- Returns the id that the address has now (0: all are taken), the address of the master ('': nobody), the epoch.
local function claim_slave_id(keys, args)
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
end

return {take_lease, renew_lease, release_lease, claim_slave_id}
