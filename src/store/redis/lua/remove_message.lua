#!lua flags=allow-oom
-- Answers the size that the message had, 0 when it was released, -1 when there is no such message.
-- KEYS row, queue · ARGV token, offset
local refused = refusal(KEYS[1], ARGV[1])
if refused then return refused end
local index, entry = find(KEYS[2], number(ARGV[2], 1))
if not entry then return -1 end
if index == 0 then
  redis.call('LPOP', KEYS[2])
else
  redis.call('LSET', KEYS[2], index, '')
  redis.call('LREM', KEYS[2], -1, '')
end
if size(entry) > 0 then count(KEYS[1], -1, -size(entry)) end
return size(entry)
