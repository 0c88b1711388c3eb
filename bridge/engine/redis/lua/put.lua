-- A version is above every one that any document ever had: one deleted and written again is not taken for the old.
-- KEYS meta log document; ARGV now name value has_value expect time tell log_keep -> written version value
local now, key = clock(ARGV[1]), KEYS[3]
local old = call('HMGET', key, 'v', 'd', 'till')
local version, value = old[1] or '0', old[2] or false
if old[3] and tonumber(old[3]) <= now then version, value = '0', false end
if ARGV[5] ~= '' and ARGV[5] ~= version then return {0, version, value} end
if ARGV[7] == '1' then
  local entry = {'j', ARGV[2]}
  if ARGV[4] == '1' then entry[3], entry[4] = 'd', ARGV[3] end
  append(KEYS[1], KEYS[2], ARGV[8], now, unpack(entry))
end
if ARGV[4] ~= '1' then
  call('UNLINK', key)
  return {1, '0', false}
end
version = text(math.max(tonumber(call('HGET', KEYS[1], 'documents') or '0') + 1, now))
call('HSET', KEYS[1], 'documents', version)
call('HSET', key, 'v', version, 'd', ARGV[3], 'till', text(now + tonumber(ARGV[6])))
call('PEXPIRE', key, text(math.ceil(tonumber(ARGV[6]) / 1000)))
return {1, version, ARGV[3]}
