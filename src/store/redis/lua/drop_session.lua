#!lua flags=allow-oom
-- Removes the session. Answers the messages and bytes that were removed with it.
-- KEYS row, queue, channels, received, sessions, our sessions, our due [, name] · ARGV token, session
-- A damaged row, or one of another type, is removed like any other.
local row = redis.pcall('GET', KEYS[1])
if type(row) ~= 'string' then row = '' end
if #row >= 8 and row:sub(1, 8) ~= ARGV[1] then return 'F' end
local bytes, messages = 0, 0
if #row >= HEAD then bytes, messages = struct.unpack('>I8I4', row, 9) end
redis.call('UNLINK', KEYS[1], KEYS[2], KEYS[3], KEYS[4])
redis.call('SREM', KEYS[5], ARGV[2])
redis.call('SREM', KEYS[6], ARGV[2])
redis.call('ZREM', KEYS[7], ARGV[2])
if KEYS[8] and redis.call('GET', KEYS[8]) == ARGV[2] then redis.call('DEL', KEYS[8]) end
return {messages, bytes}
