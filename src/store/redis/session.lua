-- What the scripts of sessions share; put before each of them. Redis runs a script as one step, so each is atomic.
-- A row begins: owner(8) bytes(8) messages(4), those that wait, then the last purge: number(8) messages(4) bytes(8);
-- Rust's part follows.
-- A queue's entry begins: order(8) size(4) flags(1) stored(8) expires(8) claim length(1) [until(8) claim] type(2).
-- Flags: 1 QoS 2, 2 sent, 4 released. The size is 0 when it is released: it does not wait any more.
-- Integers are big-endian.
local HEAD = 40

-- 'G' (gone) or 'F' (fenced) where the session is not this server's; nothing where it is.
local function stranger(row, token)
  local owner = redis.call('GETRANGE', row, 0, 7)
  if #owner == 0 then return 'G' end
  if owner ~= token then return 'F' end
end

-- Exact below 2^53, as all orders and times are.
local function number(bytes, at) return (struct.unpack('>I8', bytes, at)) end

-- Its index and the entry itself; or the index of the first one behind it, and nothing. The ends are the usual case.
local function find(queue, order)
  local low, high = 0, redis.call('LLEN', queue)
  if high == 0 then return 0 end
  local last = redis.call('LINDEX', queue, -1)
  if number(last, 1) < order then return high end
  if number(last, 1) == order then return high - 1, last end
  local first = redis.call('LINDEX', queue, 0)
  if number(first, 1) == order then return 0, first end
  high = high - 1
  while low < high do
    local middle = math.floor((low + high) / 2)
    if number(redis.call('LINDEX', queue, middle), 1) < order then low = middle + 1 else high = middle end
  end
  local entry = redis.call('LINDEX', queue, low)
  if number(entry, 1) == order then return low, entry end
  return low
end

local function size(entry) return (struct.unpack('>I4', entry, 9)) end

-- One message more or fewer waits.
local function count(row, messages, bytes)
  local had_bytes, had = struct.unpack('>I8I4', redis.call('GETRANGE', row, 8, 19))
  redis.call('SETRANGE', row, 8, struct.pack('>I8I4', math.max(had_bytes + bytes, 0), math.max(had + messages, 0)))
end

-- When it may go; nothing where the client may hold its id, which must be released first.
local function expires(entry)
  if entry:byte(13) < 3 then return number(entry, 22) end
end
