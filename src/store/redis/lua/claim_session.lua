-- Makes this node the session's owner, if it has the owner that is expected. Answers a summary of the session; 'T' and
-- the token that was found; 'N' when this node has no lease; 'R' when the name is another session's by now.
-- KEYS row, queue, channels, sessions, name, nodes, lease, our sessions, our due, the sessions and due of who is expected
-- ARGV token, the token that is expected(8), session, row of a new session, generation
if not lives(KEYS[6], ARGV[5]) or redis.call('EXISTS', KEYS[7]) == 0 then return 'N' end
local known = redis.call('GET', KEYS[5])
if known and known ~= ARGV[3] then return 'R' end
local owner = redis.call('GETRANGE', KEYS[1], 0, 7)
if #owner == 0 then
  if ARGV[2] ~= NOBODY then return 'T' .. NOBODY end
  redis.call('SADD', KEYS[4], ARGV[3])
  redis.call('SET', KEYS[1], ARGV[1] .. string.rep('\0', HEAD - 8) .. ARGV[4])
  redis.call('SET', KEYS[5], ARGV[3])
  redis.call('SADD', KEYS[8], ARGV[3])
elseif owner ~= ARGV[1] then
  if owner ~= ARGV[2] then return 'T' .. owner end
  -- Redis refuses no write for lack of memory once a script has written, and PERSIST is such a write.
  redis.call('PERSIST', KEYS[1])
  redis.call('SETRANGE', KEYS[1], 0, ARGV[1])
  move(KEYS[1], ARGV[3], KEYS[10], KEYS[11], KEYS[8], KEYS[9])
end
return summary(KEYS[1], KEYS[2], KEYS[3])
