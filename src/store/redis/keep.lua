-- Keeps a message; answers how many bytes it added, or 'K' where the session has had its claim.
-- KEYS row, queue, due [, guard] · ARGV token, session, entry, now [, guard's value: until(8) order(8), its life in ms]
local no = stranger(KEYS[1], ARGV[1])
if no then return no end
local order = number(ARGV[3], 1)
local at, found = find(KEYS[2], order)
if found then return 0 end
if KEYS[4] then
  local guard = redis.call('GET', KEYS[4])
  -- Its own guard: the same step again, and the message may be gone already.
  if guard and number(guard, 1) > tonumber(ARGV[4]) then return number(guard, 9) == order and 0 or 'K' end
end
-- The first write is the one that Redis may refuse for memory; behind it nothing can be.
if at == redis.call('LLEN', KEYS[2]) then
  redis.call('RPUSH', KEYS[2], ARGV[3])
else
  redis.call('LINSERT', KEYS[2], 'BEFORE', redis.call('LINDEX', KEYS[2], at), ARGV[3])
end
if KEYS[4] then redis.call('SET', KEYS[4], ARGV[5], 'PX', ARGV[6]) end
if expires(ARGV[3]) then redis.call('ZADD', KEYS[3], 'LT', string.format('%.0f', expires(ARGV[3])), ARGV[2]) end
if size(ARGV[3]) > 0 then count(KEYS[1], 1, size(ARGV[3])) end
return size(ARGV[3])
