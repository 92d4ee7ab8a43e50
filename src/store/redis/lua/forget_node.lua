#!lua flags=allow-oom
-- Nothing is left of a node that is buried. KEYS nodes, lease, writes, owned, due, answered · ARGV generation
redis.call('HDEL', KEYS[1], ARGV[1])
redis.call('UNLINK', KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6])
return 1
