#!lua flags=allow-oom
-- Some records of a dead node's connections become ours. Answers them as pairs; none when there are none left.
-- KEYS theirs, ours · ARGV how many, more or less
local cursor, found = '0', {}
repeat
  local answer = redis.call('HSCAN', KEYS[1], cursor, 'COUNT', ARGV[1])
  cursor, found = answer[1], answer[2]
until #found > 0 or cursor == '0'
for at = 1, #found, 2 do
  redis.call('HSET', KEYS[2], found[at], found[at + 1])
  redis.call('HDEL', KEYS[1], found[at])
end
return found
