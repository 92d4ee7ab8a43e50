#!lua flags=allow-oom
-- KEYS row, channels · ARGV token, channel
local no = stranger(KEYS[1], ARGV[1])
if no then return no end
return redis.call('HDEL', KEYS[2], ARGV[2])
