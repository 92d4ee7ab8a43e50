#!lua flags=allow-oom
-- Makes this server the session's owner, and answers a summary of the session; 'G' when the session is gone.
-- KEYS row, queue, channels, sessions · ARGV token, session
local row = redis.call('GET', KEYS[1])
if not row then
  redis.call('SREM', KEYS[4], ARGV[2])
  return 'G'
end
redis.call('SETRANGE', KEYS[1], 0, ARGV[1])
-- What is damaged here is left out: the session is known by its row, and refused when it is loaded.
local function entry(index)
  local found = redis.pcall('LINDEX', KEYS[2], index)
  return type(found) == 'string' and #found >= ENTRY_HEAD and found
end
local channels = redis.pcall('HKEYS', KEYS[3])
if channels.err then channels = {} end
local first, last = entry(0), entry(-1)
local bytes, messages = struct.unpack('>I8I4', row, 9)
-- The first message that is not released; the released ones in front of it are few.
local oldest, index = first, 0
while oldest and size(oldest) == 0 do
  index = index + 1
  oldest = entry(index)
end
return {
  row:sub(HEAD + 1), messages, bytes, channels, oldest and oldest:sub(14, 21) or '',
  first and first:sub(1, 8) or '', last and last:sub(1, 8) or ''
}
