#!lua flags=allow-oom
-- Checks that Redis still has every batch that it acknowledged to this node, and notes the number of the batch that
-- follows. Answers 1, 'lost' (there is nothing), 'buried', or the older number that it has.
-- KEYS writes: number(8); nodes, format
-- ARGV generation, number of the last batch that was acknowledged(8), number of the batch that follows(8) or ''
local known = redis.call('GET', KEYS[1])
-- Who was buried is forgotten in the end; what is lost is lost with the format.
if not known then return redis.call('EXISTS', KEYS[3]) == 1 and 'buried' or 'lost' end
if not lives(KEYS[2], ARGV[1]) then return 'buried' end
if number(known, 1) < number(ARGV[2], 1) then return known end
if ARGV[3] ~= '' then redis.call('SET', KEYS[1], ARGV[3]) end
return 1
