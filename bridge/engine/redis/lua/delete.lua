-- KEYS meta log sessions owned wants accounts expiry record history orphans open ended list listed tails
-- ARGV now session task account log_keep known_for -> whether there was anything
local now, task, account, key = clock(ARGV[1]), ARGV[3], ARGV[4], KEYS[8]
if not alive(KEYS[3], ARGV[2], now) then return 0 end
local old = call('HMGET', key, 'v', 'x', 'o', 'fs', 'l')
if not old[1] and not old[2] then return 0 end
-- Versions that do not know this kind read it as a document that is gone, and of which they know nothing.
local offset = append(KEYS[1], KEYS[2], ARGV[5], now, 'j', 'forgotten', 'g', task)
unlist(KEYS[13], KEYS[14], account, task, old[4], old[5], true)
call('UNLINK', key, KEYS[9])
for _, other in ipairs({KEYS[5], KEYS[7], KEYS[11], KEYS[12], KEYS[15]}) do call('ZREM', other, task) end
if old[3] and old[3] ~= '' then call('ZREM', KEYS[4], old[3] .. '\0' .. task) end
unorphan(KEYS[10], KEYS[6], task, account)
call('HSET', key, 'gone', offset)
expire_at(KEYS[7], key, nil, task, now, tonumber(ARGV[6]), nil, true)
return 1
