#!lua flags=allow-oom
-- Looks whether the data is what this server was told is kept, and notes the number of the batch that follows.
-- Answers 1, 'lost' (there is nothing), 'taken' (another server writes here), or the older number that was found.
-- KEYS writer: format(1) token(8) number(8) · ARGV token, number that was promised(8), number of this batch(8) or ''
local writer = redis.call('GET', KEYS[1])
if not writer then return 'lost' end
if writer:sub(2, 9) ~= ARGV[1] then return 'taken' end
if number(writer, 10) < number(ARGV[2], 1) then return writer:sub(10) end
if ARGV[3] ~= '' then redis.call('SETRANGE', KEYS[1], 9, ARGV[3]) end
return 1
