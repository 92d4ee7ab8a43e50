#!lua flags=allow-oom
-- A life of a node has ended: it writes no more. Answers 1; 0 when its lease has not ended and it is not forced.
-- KEYS nodes, lease · ARGV generation, '1' to force it
if ARGV[2] ~= '1' and redis.call('EXISTS', KEYS[2]) == 1 then return 0 end
local state = redis.call('HGET', KEYS[1], ARGV[1])
if state then redis.call('HSET', KEYS[1], ARGV[1], 'b' .. state:sub(2)) end
redis.call('DEL', KEYS[2])
return 1
