-- The session is dead from now on; `bury` takes what it owns.
-- KEYS sessions about; ARGV now session -> 1 if it lived
local now = clock(ARGV[1])
if not alive(KEYS[1], ARGV[2], now) then return 0 end
call('ZADD', KEYS[1], text(now), ARGV[2])
call('HSET', KEYS[2], '+' .. ARGV[2], text(now))
call('HDEL', KEYS[2], ARGV[2])
return 1
