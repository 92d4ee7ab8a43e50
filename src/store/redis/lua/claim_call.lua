-- Claims a call's message_id. Answers 0 when it is new, 1 when it was claimed before, or the call's answer where it has
-- one. The request's id makes a repeat of the same request get the same response.
-- KEYS claim · ARGV id of the request, until(8), its life in ms, now
local claim = redis.call('GET', KEYS[1])
if claim and number(claim, 1) > tonumber(ARGV[4]) then
  if claim:sub(9, 9) == 's' then return claim:sub(10) end
  return claim:sub(10) == ARGV[1] and 0 or 1
end
redis.call('SET', KEYS[1], ARGV[2] .. 'c' .. ARGV[1], 'PX', ARGV[3])
return 0
