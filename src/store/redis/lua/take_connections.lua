#!lua flags=allow-oom
-- Some records of a dead node's connections become ours. Answers them as pairs; none when there are none left.
-- What was answered is kept until we name another number: a repeat, after an answer that was lost, gets it again.
-- 'buried' where our life has been ended: nobody would look for what we took.
-- KEYS theirs, ours, answered, nodes · ARGV how many, more or less; the number of the question; our generation
if not lives(KEYS[4], ARGV[3]) then return 'buried' end
if redis.call('LINDEX', KEYS[3], 0) == ARGV[2] then return redis.call('LRANGE', KEYS[3], 1, -1) end
redis.call('DEL', KEYS[3])
local cursor, found = '0', {}
repeat
  local answer = redis.call('HSCAN', KEYS[1], cursor, 'COUNT', ARGV[1])
  cursor, found = answer[1], answer[2]
until #found > 0 or cursor == '0'
if #found > 0 then redis.call('RPUSH', KEYS[3], ARGV[2]) end
for at = 1, #found, 2 do
  redis.call('HSET', KEYS[2], found[at], found[at + 1])
  redis.call('HDEL', KEYS[1], found[at])
  redis.call('RPUSH', KEYS[3], found[at], found[at + 1])
end
return found
