#!lua flags=allow-oom
-- KEYS row, channels · ARGV token, channel
local refused = refusal(KEYS[1], ARGV[1])
if refused then return refused end
return redis.call('HDEL', KEYS[2], ARGV[2])
