-- KEYS counter; ARGV now hold amount
local key, hold, amount = KEYS[1], 'h' .. ARGV[2], tonumber(ARGV[3])
local old = call('HMGET', key, 'u', hold)
if not old[2] or not amount or not (amount >= 0 and amount < math.huge) then return end
local used = math.max(tonumber(old[1]) - tonumber(old[2]) + amount, 0)
call('HSET', key, 'u', string.format('%.17g', used))
if amount > 0 then call('HSET', key, hold, ARGV[3]) else call('HDEL', key, hold) end
