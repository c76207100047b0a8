#!lua
-- Who works on something now, for a while. Called by connectors/store.py only.
--   KEYS[1]  what is claimed
--   ARGV     who, for how many ms (0: lets go)
-- Answers {who has it or "", ms left}: a claim of somebody else's is left as it is.
local holder = redis.call('GET', KEYS[1])
if ARGV[2] == '0' then
  if holder == ARGV[1] then
    redis.call('DEL', KEYS[1])
    holder = false
  end
elseif not holder or holder == ARGV[1] then
  redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
  holder = ARGV[1]
end
return { holder or '', redis.call('PTTL', KEYS[1]) }
