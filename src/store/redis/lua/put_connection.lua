-- Records a connection of this node's; 'buried' where this life has been ended: nobody would look for the record.
-- KEYS nodes, connections · ARGV generation, identity, record
local state = redis.call('HGET', KEYS[1], ARGV[1])
if not state or state:sub(1, 1) ~= 'l' then return 'buried' end
redis.call('HSET', KEYS[2], ARGV[2], ARGV[3])
return 1
