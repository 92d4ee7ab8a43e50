-- KEYS row, channels · ARGV token, channel
local no = stranger(KEYS[1], ARGV[1])
if no then return no end
return redis.call('HSET', KEYS[2], ARGV[2], '')
