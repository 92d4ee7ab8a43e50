-- What the scripts share; it is put before each of them. Redis runs a script as one step, so each is atomic.
-- A row begins: owner(8) bytes(8) messages(4), those that wait, then the last purge: number(8) messages(4) bytes(8);
-- the rest of the row is Rust's alone.
-- A queue's entry begins: offset(8) size(4) flags(1) stored(8) expires(8) claim length(1) [until(8) claim] type(2).
-- Flags: 1 QoS 2, 2 sent, 4 released. The size of a released message is 0: it does not wait any more.
-- Integers are big-endian.
local HEAD = 40
local ENTRY_HEAD = 32

-- 'G' (the session is gone) or 'F' (fenced: another server owns it); nothing where this server owns it.
local function refusal(row, token)
  local owner = redis.call('GETRANGE', row, 0, 7)
  if #owner == 0 then return 'G' end
  if owner ~= token then return 'F' end
end

-- Exact below 2^53, as all offsets and times are.
local function number(bytes, position) return (struct.unpack('>I8', bytes, position)) end

-- The entry's index and the entry; or the index of the first entry behind it, and nothing. Most entries that are looked
-- for are the first or the last, so these are tried first.
local function find(queue, offset)
  local low, high = 0, redis.call('LLEN', queue)
  if high == 0 then return 0 end
  local last = redis.call('LINDEX', queue, -1)
  if number(last, 1) < offset then return high end
  if number(last, 1) == offset then return high - 1, last end
  local first = redis.call('LINDEX', queue, 0)
  if number(first, 1) == offset then return 0, first end
  high = high - 1
  while low < high do
    local middle = math.floor((low + high) / 2)
    if number(redis.call('LINDEX', queue, middle), 1) < offset then low = middle + 1 else high = middle end
  end
  local entry = redis.call('LINDEX', queue, low)
  if number(entry, 1) == offset then return low, entry end
  return low
end

local function size(entry) return (struct.unpack('>I4', entry, 9)) end

-- Adds to the messages and bytes that wait for the session; negative numbers subtract.
local function count(row, messages, bytes)
  local had_bytes, had = struct.unpack('>I8I4', redis.call('GETRANGE', row, 8, 19))
  redis.call('SETRANGE', row, 8, struct.pack('>I8I4', math.max(had_bytes + bytes, 0), math.max(had + messages, 0)))
end

-- When the message may be removed; nothing where the client may have its id, which must be released first.
local function expires(entry)
  if entry:byte(13) < 3 then return number(entry, 22) end
end

-- A life of a node that has neither been buried nor forgotten.
local function lives(nodes, generation)
  local state = redis.call('HGET', nodes, generation)
  return state and state:sub(1, 1) == 'l'
end

-- No node's token.
local NOBODY = string.rep('\0', 8)

-- The node that purges the session looks at it soon.
local function note_due(row, session, due)
  local _, messages = struct.unpack('>I8I4', redis.call('GETRANGE', row, 8, 19) .. string.rep('\0', 12))
  if messages > 0 then redis.call('ZADD', due, '0', session) end
end

-- The session goes from one node's lists to another's.
local function move(row, session, from, from_due, to, to_due)
  redis.call('SREM', from, session)
  redis.call('ZREM', from_due, session)
  redis.call('SADD', to, session)
  note_due(row, session, to_due)
end

-- What a server knows of a session that it owns: the row, what waits, the channels, when the first message was stored,
-- the offsets of the first and the last.
local function summary(key, queue, key_of_channels)
  local row = redis.call('GET', key)
  -- What is damaged here is left out: the session is known by its row, and refused when it is loaded.
  local function entry(index)
    local found = redis.pcall('LINDEX', queue, index)
    return type(found) == 'string' and #found >= ENTRY_HEAD and found
  end
  local channels = redis.pcall('HKEYS', key_of_channels)
  if channels.err then channels = {} end
  local first, last = entry(0), entry(-1)
  local bytes, messages = struct.unpack('>I8I4', row, 9)
  -- The first message that is not released; the released ones in front of it are few.
  local oldest, index = first, 0
  while oldest and size(oldest) == 0 do
    index = index + 1
    oldest = entry(index)
  end
  return {
    row:sub(HEAD + 1), messages, bytes, channels, oldest and oldest:sub(14, 21) or '',
    first and first:sub(1, 8) or '', last and last:sub(1, 8) or ''
  }
end
