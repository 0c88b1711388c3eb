-- KEYS sessions operation; ARGV now session answer has_answer -> whether it is the session's
local now, key = clock(ARGV[1]), KEYS[2]
local old = call('HMGET', key, 's', 'done', 'd', 'till')
if not old[1] or tonumber(old[4]) <= now or old[1] ~= ARGV[2] then return 0 end
if old[2] == '1' then return ARGV[4] == '1' and old[3] == ARGV[3] and 1 or 0 end
if not alive(KEYS[1], ARGV[2], now) then return 0 end
if ARGV[4] == '1' then call('HSET', key, 'done', '1', 'd', ARGV[3]) else call('UNLINK', key) end
return 1
