-- Stores a message. Answers how many bytes it added, or 'K' where the session has had a message with its claim.
-- KEYS row, queue, due [, guard]
-- ARGV token, session, entry, now [, value of the guard: until(8) offset(8), its life in ms]
local refused = refusal(KEYS[1], ARGV[1])
if refused then return refused end
local offset = number(ARGV[3], 1)
local index, found = find(KEYS[2], offset)
if found then return 0 end
if KEYS[4] then
  local guard = redis.call('GET', KEYS[4])
  -- The guard of this very message: the same mutation a second time. The message may be gone already.
  if guard and number(guard, 1) > tonumber(ARGV[4]) then return number(guard, 9) == offset and 0 or 'K' end
end
-- Redis may refuse the first write for lack of memory; it refuses none of the writes after it.
if index == redis.call('LLEN', KEYS[2]) then
  redis.call('RPUSH', KEYS[2], ARGV[3])
else
  redis.call('LINSERT', KEYS[2], 'BEFORE', redis.call('LINDEX', KEYS[2], index), ARGV[3])
end
if KEYS[4] then redis.call('SET', KEYS[4], ARGV[5], 'PX', ARGV[6]) end
if expires(ARGV[3]) then redis.call('ZADD', KEYS[3], 'LT', string.format('%.0f', expires(ARGV[3])), ARGV[2]) end
if size(ARGV[3]) > 0 then count(KEYS[1], 1, size(ARGV[3])) end
return size(ARGV[3])
