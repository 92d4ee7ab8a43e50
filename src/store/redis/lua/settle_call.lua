-- Stores the call's answer. Answers 0 when there is no claim. KEYS claim · ARGV answer, now
local claim = redis.call('GET', KEYS[1])
if not claim or number(claim, 1) <= tonumber(ARGV[2]) then return 0 end
redis.call('SET', KEYS[1], claim:sub(1, 8) .. 's' .. ARGV[1], 'KEEPTTL')
return 1
