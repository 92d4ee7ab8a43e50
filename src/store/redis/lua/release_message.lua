#!lua flags=allow-oom
-- The client has the message: body and type are removed, flag 4 is set. Answers the size that the message had, 0 when
-- it was released before, -1 when there is no such message. KEYS row, queue · ARGV token, offset
local refused = refusal(KEYS[1], ARGV[1])
if refused then return refused end
local index, entry = find(KEYS[2], number(ARGV[2], 1))
if not entry then return -1 end
local flags, claim_length = entry:byte(13), entry:byte(30)
if flags >= 4 then return 0 end
local claim = claim_length == 0 and '' or entry:sub(31, 38 + claim_length)
local released = entry:sub(1, 8) .. '\0\0\0\0' .. string.char(flags + 4) .. entry:sub(14, 30) .. claim .. '\0\0'
redis.call('LSET', KEYS[2], index, released)
count(KEYS[1], -1, -size(entry))
return size(entry)
