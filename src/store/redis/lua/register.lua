#!lua flags=allow-oom
-- This life of this node begins. Answers the nodes that are known, as pairs of generation and state; 'old' where the
-- data is of format 1; or the format that was found where it is another one.
-- A state is 'l' (it lives) or 'b' (it is buried: it writes no more), the node's place, and behind a line feed where
-- the other nodes reach it.
-- KEYS format, writer of format 1, nodes, lease, writes · ARGV format(1), generation, place and address, life of the lease in ms
local writer = redis.call('GET', KEYS[2])
if writer and writer:byte(1) ~= 1 then return writer:byte(1) end
local format = redis.call('GET', KEYS[1])
if format and format ~= ARGV[1] then return format:byte(1) end
if not writer then redis.call('SET', KEYS[1], ARGV[1]) end
redis.call('HSET', KEYS[3], ARGV[2], 'l' .. ARGV[3])
redis.call('SET', KEYS[4], '', 'PX', ARGV[4])
redis.call('SET', KEYS[5], string.rep('\0', 8))
if writer then return 'old' end
return redis.call('HGETALL', KEYS[3])
