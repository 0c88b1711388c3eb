-- KEYS counter; ARGV now hold amount limit window (microseconds; empty for one that never ends) -> ok used
local now, key, hold = clock(ARGV[1]), KEYS[1], 'h' .. ARGV[2]
local window = ARGV[5] ~= '' and text(math.floor(now / tonumber(ARGV[5]))) or '0'
local old = call('HMGET', key, 'w', 'u', hold)
local used = old[2] or '0'
if old[1] and old[1] ~= window then
  call('UNLINK', key)
  used, old[3] = '0', false
end
if old[3] then return {1, used} end
local amount, limit = tonumber(ARGV[3]), tonumber(ARGV[4])
-- `not (<=)`: what is not a number is refused too.
if not amount or not limit or not (amount >= 0 and tonumber(used) + amount <= limit) then return {0, used} end
used = string.format('%.17g', tonumber(used) + amount)
call('HSET', key, 'w', window, 'u', used, hold, ARGV[3])
if ARGV[5] ~= '' then call('PEXPIRE', key, text(math.ceil(tonumber(ARGV[5]) / 500) + 60000)) end
return {1, used}
