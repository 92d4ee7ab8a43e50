#!lua flags=allow-oom
-- Answers its size, 0 where it did not wait any more, -1 where it was not there. KEYS row, queue · ARGV token, order
local no = stranger(KEYS[1], ARGV[1])
if no then return no end
local at, entry = find(KEYS[2], number(ARGV[2], 1))
if not entry then return -1 end
if at == 0 then
  redis.call('LPOP', KEYS[2])
else
  redis.call('LSET', KEYS[2], at, '')
  redis.call('LREM', KEYS[2], -1, '')
end
if size(entry) > 0 then count(KEYS[1], -1, -size(entry)) end
return size(entry)
