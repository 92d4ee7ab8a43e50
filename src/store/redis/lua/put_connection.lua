-- Records a connection of this node's; 'buried' where this life has been ended: nobody would look for the record.
-- KEYS nodes, connections · ARGV generation, identity, record
if not lives(KEYS[1], ARGV[1]) then return 'buried' end
redis.call('HSET', KEYS[2], ARGV[2], ARGV[3])
return 1
