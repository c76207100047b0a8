#!lua
-- Takes a lane. Called by connectors/store.py only.
--   KEYS[1]  "{orders.0.3}": prefix of all the lane's keys
--   ARGV     token held so far or "", 128 random bits in hex, sequence held so far or -1, how many due entries to return
-- Answers {"back", stored sequence} or {"ok", token, epoch, sequence, offset, log, sends, mark, counts, outbox, due}.
-- A token that is still the stored one is kept. Offset and log are false where the lane was never placed.
local lane = KEYS[1]
local kinds = { m = 'hash', c = 'hash', o = 'hash', d = 'zset' }
for suffix, kind in pairs(kinds) do
  local found = redis.call('TYPE', lane .. ':' .. suffix).ok
  if found ~= 'none' and found ~= kind then
    return { 'foreign', lane .. ':' .. suffix }
  end
end

local meta = lane .. ':m'
local held = redis.call('HMGET', meta, 'token', 'epoch', 'sequence', 'offset', 'log', 'sends', 'mark')
local token, epoch, sequence = held[1], held[2] or '0', held[3] or '0'
if tonumber(sequence) < tonumber(ARGV[3]) then
  return { 'back', sequence }
end
if not token or token ~= ARGV[1] then
  epoch = string.format('%.0f', tonumber(epoch) + 1)
  token = epoch .. '.' .. ARGV[2]
  redis.call('HSET', meta, 'token', token, 'epoch', epoch, 'sequence', sequence)
end
return {
  'ok', token, epoch, sequence, held[4], held[5], held[6] or 'closed', held[7] or '',
  redis.call('HGETALL', lane .. ':c'),
  redis.call('HGETALL', lane .. ':o'),
  redis.call('ZRANGE', lane .. ':d', 0, ARGV[4] - 1, 'WITHSCORES'),
}
