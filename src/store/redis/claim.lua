-- A call's id: 0 new, 1 claimed before, its answer where it has one. What names the asker makes a repeat of the same
-- question get the same answer. KEYS claim · ARGV asker, until(8), its life in ms, now
local claim = redis.call('GET', KEYS[1])
if claim and number(claim, 1) > tonumber(ARGV[4]) then
  if claim:sub(9, 9) == 's' then return claim:sub(10) end
  return claim:sub(10) == ARGV[1] and 0 or 1
end
redis.call('SET', KEYS[1], ARGV[2] .. 'c' .. ARGV[1], 'PX', ARGV[3])
return 0
