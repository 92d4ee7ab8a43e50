#!lua flags=allow-oom
-- Removes expired messages. Answers how many messages and bytes the purge of this number has removed from the session
-- in all its tries together, and whether more is left to be removed.
-- KEYS row, queue, due · ARGV token, session, now, most, number of the purge(8)
local refused = refusal(KEYS[1], ARGV[1])
if refused == 'G' then redis.call('ZREM', KEYS[3], ARGV[2]) end
if refused then return refused end
local now, most = tonumber(ARGV[3]), tonumber(ARGV[4])
local head = redis.call('GETRANGE', KEYS[1], 0, HEAD - 1)
local messages, bytes = 0, 0
if head:sub(21, 28) == ARGV[5] then
  messages, bytes = struct.unpack('>I4', head, 29), number(head, 33)
end
local index, gone, freed, earliest, prefix = 0, 0, 0, nil, 0
while gone < most do
  local entries = redis.call('LRANGE', KEYS[2], index, index + 127)
  if #entries == 0 then break end
  for _, entry in ipairs(entries) do
    local due = expires(entry) or math.huge
    if due > now then
      if due < (earliest or math.huge) then earliest = due end
    elseif gone == most then
      earliest = now
      break
    else
      if prefix == index then prefix = prefix + 1 else redis.call('LSET', KEYS[2], index, '') end
      gone, freed = gone + 1, freed + size(entry)
    end
    index = index + 1
  end
end
local more = 0
if gone == most and index < redis.call('LLEN', KEYS[2]) then more, earliest = 1, now end
if gone > prefix then redis.call('LREM', KEYS[2], 0, '') end
if prefix > 0 then redis.call('LTRIM', KEYS[2], prefix, -1) end
if earliest then
  redis.call('ZADD', KEYS[3], string.format('%.0f', earliest), ARGV[2])
else
  redis.call('ZREM', KEYS[3], ARGV[2])
end
if gone > 0 then
  messages, bytes = messages + gone, bytes + freed
  count(KEYS[1], -gone, -freed)
  redis.call('SETRANGE', KEYS[1], 20, ARGV[5] .. struct.pack('>I4I8', messages, bytes))
end
return {messages, bytes, more}
