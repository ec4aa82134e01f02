-- Recognises a message that was sent once more after a lost answer, in the call that would store it, by what the
-- store holds: neither a restart of the broker nor a failover forgets the first one.

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
  local real = 'REAL_TOPIC\1[^\2]*\2REAL_QID\1%d+\2'
  return body == other_body and topic == other_topic
    and string.gsub(properties, real, '') == string.gsub(other_properties, real, '')
end

return {parts, same}
