-- KEYS sessions owned accounts expiry record orphans tails meta
-- ARGV now session task account called_back has_tail blank_life
local now, task, key = clock(ARGV[1]), ARGV[3], KEYS[5]
if not alive(KEYS[1], ARGV[2], now) then return end
local fields = call('HMGET', key, 'o', 'e', 'due', 'xp')
if fields[2] == '1' then return end
call('HSET', key, 'k', '1')
if ARGV[5] == '1' then call('HSET', key, 'cb', '1') end
if ARGV[6] == '1' then tail(KEYS[8], KEYS[7], task, now) end
if not fields[4] then expire_at(KEYS[4], key, nil, task, now, tonumber(ARGV[7])) end
-- With a dead owner, `bury` finds it.
if (not fields[1] or fields[1] == '') and not call('ZSCORE', KEYS[6], task) then
  local due = math.max(tonumber(fields[3] or '0'), now)
  orphan(key, task, ARGV[4], text(due), '', KEYS[2], KEYS[6], KEYS[3])
end
