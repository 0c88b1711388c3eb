-- KEYS sessions operation; ARGV now session digest time -> state [answer]
local now, key = clock(ARGV[1]), KEYS[2]
local old = call('HMGET', key, 's', 'c', 'done', 'd', 'till')
if not old[1] or tonumber(old[5]) <= now then
  if not alive(KEYS[1], ARGV[2], now) then return {'pending'} end
  call('HSET', key, 's', ARGV[2], 'c', ARGV[3], 'done', '0', 'till', text(now + tonumber(ARGV[4])))
  call('HDEL', key, 'd')
  call('PEXPIRE', key, text(math.ceil(tonumber(ARGV[4]) / 1000)))
  return {'new'}
end
if old[2] ~= ARGV[3] then return {'mismatch'} end
if old[3] == '1' then return {'done', old[4]} end
return {alive(KEYS[1], old[1], now) and 'pending' or 'dead'}
