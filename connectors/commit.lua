#!lua
-- One commit of one lane, all or nothing. Called by connectors/store.py only.
--   KEYS[1]  "{orders.0.3}": prefix of all the lane's keys
--   ARGV[1]  one msgpack array (see `_pack` in store.py); every leaf is a string, lists of pairs are flat
-- Answers {"ok", sends} or, with nothing written, {why, stored sequence, stored commit ID, detail}.
--
-- An error in a script does not undo what it has written. So everything that can fail is looked at first: the fence, the position,
-- the types of the keys; a full memory refuses the script before its first line ("#!lua" without flags). Then whole values are written.
local lane = KEYS[1]
local meta = lane .. ':m'
local c = cmsgpack.unpack(ARGV[1])
local token, expected, sequence, commit = c[1], c[2], c[3], c[4]
local first, position, log, mark, wipe = c[5], c[6], c[7], c[8], c[9]
local states, gone, due, undue, outbox, trimmed = c[10], c[11], c[12], c[13], c[14], c[15]
local parked, unparked, bodies, spent, gained, lost, counts = c[16], c[17], c[18], c[19], c[20], c[21], c[22]

local kinds = { m = 'hash', s = 'hash', d = 'zset', o = 'hash', p = 'hash', b = 'hash', c = 'hash', t = 'set' }
local function foreign(key, kind)
  local found = redis.call('TYPE', key).ok
  return found ~= 'none' and found ~= kind
end
for suffix, kind in pairs(kinds) do
  if foreign(lane .. ':' .. suffix, kind) then
    return { 'foreign', '0', '', lane .. ':' .. suffix }
  end
end
for i = 1, #gained, 2 do
  if foreign(lane .. ':t:' .. gained[i], 'zset') then
    return { 'foreign', '0', '', lane .. ':t:' .. gained[i] }
  end
end
for i = 1, #lost, 2 do
  if foreign(lane .. ':t:' .. lost[i], 'zset') then
    return { 'foreign', '0', '', lane .. ':t:' .. lost[i] }
  end
end

local held = redis.call('HMGET', meta, 'token', 'sequence', 'commit', 'offset', 'sends')
local function refuse(why, detail)
  return { why, held[2] or '0', held[3] or '', detail or '' }
end
if (held[2] or '0') ~= expected then
  return refuse('sequence')
elseif held[1] ~= token then
  return refuse('token')
elseif first ~= '' and held[4] ~= first then
  return refuse('position', held[4] or 'none')
elseif #bodies > 0 and held[5] ~= 'open' then
  return refuse('closed')
end

local SLICE = 6000 -- an even number below the 8,000 that Lua can unpack
local function write(command, key, items)
  for i = 1, #items, SLICE do
    redis.call(command, key, unpack(items, i, math.min(i + SLICE - 1, #items)))
  end
end

if wipe ~= '' then
  for suffix in pairs(kinds) do
    if suffix == 't' then
      for _, tag in ipairs(redis.call('SMEMBERS', lane .. ':t')) do
        redis.call('UNLINK', lane .. ':t:' .. tag)
      end
    end
    if suffix ~= 'm' then
      redis.call('UNLINK', lane .. ':' .. suffix)
    end
  end
  redis.call('HSET', meta, 'sends', 'closed')
end
write('HSET', lane .. ':s', states)
write('HDEL', lane .. ':s', gone)
write('ZADD', lane .. ':d', due)
write('ZREM', lane .. ':d', undue)
write('HDEL', lane .. ':o', trimmed)
if outbox ~= '' then
  redis.call('HSET', lane .. ':o', sequence, outbox)
end
write('HSET', lane .. ':p', parked)
write('HDEL', lane .. ':p', unparked)
write('HSET', lane .. ':b', bodies)
write('HDEL', lane .. ':b', spent)
for i = 1, #lost, 2 do
  write('ZREM', lane .. ':t:' .. lost[i], lost[i + 1])
end
for i = 1, #gained, 2 do
  redis.call('SADD', lane .. ':t', gained[i])
  write('ZADD', lane .. ':t:' .. gained[i], gained[i + 1])
end
write('HSET', lane .. ':c', counts)
local news = { 'sequence', sequence, 'commit', commit }
for field, value in pairs({ offset = position, log = log, mark = mark }) do
  if value then
    news[#news + 1] = field
    news[#news + 1] = value
  end
end
redis.call('HSET', meta, unpack(news))
return { 'ok', wipe ~= '' and 'closed' or held[5] or 'closed' }
