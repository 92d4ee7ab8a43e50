#!lua flags=allow-oom
-- From now on this server writes here. Answers 'ok', or the format that was found where it is another one.
-- KEYS writer · ARGV format(1), token
local writer = redis.call('GET', KEYS[1])
if writer and writer:sub(1, 1) ~= ARGV[1] then return writer:byte(1) end
redis.call('SET', KEYS[1], ARGV[1] .. ARGV[2] .. string.rep('\0', 8))
return 'ok'
