-- KEYS sessions budget; ARGV now session time -> whether the session may probe
local now, session = clock(ARGV[1]), ARGV[2]
if not alive(KEYS[1], session, now) then return 0 end
local old = call('HMGET', KEYS[2], 'prober', 'probe')
if old[1] and old[1] ~= session and now < tonumber(old[2]) and alive(KEYS[1], old[1], now) then return 0 end
call('HSET', KEYS[2], 'prober', session, 'probe', text(now + tonumber(ARGV[3])))
call('PEXPIRE', KEYS[2], 900000 + math.ceil(tonumber(ARGV[3]) / 1000))
return 1
