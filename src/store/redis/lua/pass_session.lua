#!lua flags=allow-oom
-- Another node is the session's owner from now on. Answers 0 where that node lives no more: nobody would look for what
-- it owns, since what it had is other nodes' by now.
-- KEYS row, our sessions, our due, its sessions, its due, nodes · ARGV token, its token, session, its generation
local refused = refusal(KEYS[1], ARGV[1])
if refused then return refused end
if not lives(KEYS[6], ARGV[4]) then return 0 end
redis.call('SETRANGE', KEYS[1], 0, ARGV[2])
move(KEYS[1], ARGV[3], KEYS[2], KEYS[3], KEYS[4], KEYS[5])
return 1
