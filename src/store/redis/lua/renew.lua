#!lua flags=allow-oom
-- Renews the node's lease. Answers all nodes: generation, state, what is left of the lease in ms (0: nothing); 'buried'
-- where this life has been ended.
-- KEYS nodes, beginning of the leases' names · ARGV generation, life of the lease in ms
if not lives(KEYS[1], ARGV[1]) then return 'buried' end
redis.call('SET', KEYS[2] .. ARGV[1], '', 'PX', ARGV[2])
local nodes = redis.call('HGETALL', KEYS[1])
local answer = {}
for at = 1, #nodes, 2 do
  answer[#answer + 1] = nodes[at]
  answer[#answer + 1] = nodes[at + 1]
  answer[#answer + 1] = math.max(redis.call('PTTL', KEYS[2] .. nodes[at]), 0)
end
return answer
