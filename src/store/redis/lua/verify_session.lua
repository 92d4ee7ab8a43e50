#!lua flags=no-writes
-- Does this node still own the session? KEYS row · ARGV token
return refusal(KEYS[1], ARGV[1]) or 1
