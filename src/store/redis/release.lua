#!lua flags=allow-oom
-- The client has it: body and type go, flag 4 says so. Answers its size, 0 or less where there was nothing to do.
-- KEYS row, queue · ARGV token, order
local no = stranger(KEYS[1], ARGV[1])
if no then return no end
local at, entry = find(KEYS[2], number(ARGV[2], 1))
if not entry then return -1 end
local flags, claim = entry:byte(13), entry:byte(30)
if flags >= 4 then return 0 end
local kept = claim == 0 and '' or entry:sub(31, 38 + claim)
local left = entry:sub(1, 8) .. '\0\0\0\0' .. string.char(flags + 4) .. entry:sub(14, 30) .. kept .. '\0\0'
redis.call('LSET', KEYS[2], at, left)
count(KEYS[1], -1, -size(entry))
return size(entry)
