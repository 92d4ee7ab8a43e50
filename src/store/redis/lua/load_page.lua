#!lua flags=no-writes
-- Answers a page of messages, whether more follow, and the received ids with the first page.
-- KEYS row, queue, received · ARGV token, offset that the page follows ('' for the first page), most, most bytes
local refused = refusal(KEYS[1], ARGV[1])
if refused then return refused end
local index, most, room = 0, tonumber(ARGV[3]), tonumber(ARGV[4])
local received = {}
if ARGV[2] == '' then
  received = redis.call('HGETALL', KEYS[3])
else
  local found
  index, found = find(KEYS[2], number(ARGV[2], 1))
  if found then index = index + 1 end
end
local page = {}
while true do
  local entries = redis.call('LRANGE', KEYS[2], index, index + 63)
  for _, entry in ipairs(entries) do
    if #page == most or (#page > 0 and #entry > room) then return {page, 1, received} end
    page[#page + 1], room = entry, room - #entry
  end
  if #entries < 64 then return {page, 0, received} end
  index = index + 64
end
