#!lua flags=allow-oom
-- Checks that Redis still has every batch that it acknowledged to this server, and notes the number of the batch that
-- follows. Answers 1, 'lost' (there is nothing), 'taken' (another server writes here), or the older number that it has.
-- KEYS writer: format(1) token(8) number(8)
-- ARGV token, number of the last batch that was acknowledged(8), number of the batch that follows(8) or ''
local writer = redis.call('GET', KEYS[1])
if not writer then return 'lost' end
if writer:sub(2, 9) ~= ARGV[1] then return 'taken' end
if number(writer, 10) < number(ARGV[2], 1) then return writer:sub(10) end
if ARGV[3] ~= '' then redis.call('SETRANGE', KEYS[1], 9, ARGV[3]) end
return 1
