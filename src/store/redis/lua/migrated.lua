#!lua flags=allow-oom
-- Everything of format 1 has been brought to this one. KEYS format, writer of format 1, due of format 1 · ARGV format(1)
redis.call('SET', KEYS[1], ARGV[1])
redis.call('DEL', KEYS[2], KEYS[3])
return 1
