-- The session's row, new or not. KEYS row, sessions · ARGV token, online ('1' or '0'), session, row
local head = redis.call('GETRANGE', KEYS[1], 0, HEAD - 1)
if #head == 0 then
  redis.call('SADD', KEYS[2], ARGV[3])
  redis.call('SET', KEYS[1], ARGV[1] .. string.rep('\0', HEAD - 8) .. ARGV[4])
  return 1
end
if head:sub(1, 8) ~= ARGV[1] and ARGV[2] == '0' then return 'F' end
-- A script that has written is not refused for memory any more: who comes back to a full store must be let in, or
-- it could never be emptied. This writes nothing.
redis.call('PERSIST', KEYS[1])
redis.call('SET', KEYS[1], ARGV[1] .. head:sub(9) .. ARGV[4])
return 0
