#!lua flags=allow-oom
-- Makes this node the owner of a session that one of its predecessors owned, whichever it was where none is named.
-- Answers a summary of the session; 'G' when the session is gone, 'F' when another node owns it.
-- KEYS row, queue, channels, sessions, our sessions, our due · ARGV token, session, the predecessors' generations(4 each)
local owner = redis.call('GETRANGE', KEYS[1], 0, 7)
if #owner == 0 then
  redis.call('SREM', KEYS[4], ARGV[2])
  return 'G'
end
if ARGV[3] ~= '' then
  local is_theirs = owner == ARGV[1]
  for at = 1, #ARGV[3], 4 do is_theirs = is_theirs or owner:sub(1, 4) == ARGV[3]:sub(at, at + 3) end
  if not is_theirs then return 'F' end
end
redis.call('SETRANGE', KEYS[1], 0, ARGV[1])
redis.call('SADD', KEYS[5], ARGV[2])
note_due(KEYS[1], ARGV[2], KEYS[6])
return summary(KEYS[1], KEYS[2], KEYS[3])
