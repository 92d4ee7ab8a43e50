-- Writes the session's row, new or not. Answers 1 for a new session, 0 for a known one; 'G' where it should be known.
-- KEYS row, sessions, our sessions [, name] · ARGV token, '1' where it may be new, session, row
local head = redis.call('GETRANGE', KEYS[1], 0, HEAD - 1)
if #head == 0 then
  if ARGV[2] ~= '1' then return 'G' end
  redis.call('SADD', KEYS[2], ARGV[3])
  redis.call('SADD', KEYS[3], ARGV[3])
  redis.call('SET', KEYS[1], ARGV[1] .. string.rep('\0', HEAD - 8) .. ARGV[4])
  if KEYS[4] then redis.call('SET', KEYS[4], ARGV[3]) end
  return 1
end
if head:sub(1, 8) ~= ARGV[1] then return 'F' end
-- Redis refuses no write for lack of memory once a script has written. PERSIST changes nothing here and is such a
-- write: a client that returns to a full store must be let in, or the store could never be emptied.
redis.call('PERSIST', KEYS[1])
redis.call('SET', KEYS[1], head .. ARGV[4])
return 0
