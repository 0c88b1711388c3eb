-- KEYS meta log sessions expiry record tails
-- ARGV now session task code body has_body log_keep blank_life has_tail -> offset, 0 if dead
local now, key, code = clock(ARGV[1]), KEYS[5], ARGV[4]
if not alive(KEYS[3], ARGV[2], now) then return '0' end
local entry = {'n', ARGV[3], 'c', code}
if ARGV[6] == '1' then entry[5], entry[6] = 'd', ARGV[5] end
local offset = append(KEYS[1], KEYS[2], ARGV[7], now, unpack(entry))
if ARGV[9] == '1' then tail(KEYS[1], KEYS[6], ARGV[3], now) end
local old = call('HMGET', key, 'e', 'xp')
if code == 'fresh' then
  for _, field in ipairs(call('HKEYS', key)) do
    if string.sub(field, 1, 2) == 'n:' then call('HDEL', key, field) end
  end
elseif ARGV[6] ~= '1' then
  call('HDEL', key, 'n:' .. code)
elseif old[1] ~= '1' then
  call('HSET', key, 'n:' .. code, ARGV[5])
  if not old[2] then expire_at(KEYS[4], key, nil, ARGV[3], now, tonumber(ARGV[8])) end
end
return offset
