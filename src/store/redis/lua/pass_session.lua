#!lua flags=allow-oom
-- Another node is the session's owner from now on.
-- KEYS row, our sessions, our due, its sessions, its due · ARGV token, its token, session
local refused = refusal(KEYS[1], ARGV[1])
if refused then return refused end
redis.call('SETRANGE', KEYS[1], 0, ARGV[2])
move(KEYS[1], ARGV[3], KEYS[2], KEYS[3], KEYS[4], KEYS[5])
return 1
