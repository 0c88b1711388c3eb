-- KEYS meta log sessions expiry record history list tails
-- ARGV now session task details has_tail log_keep ended_life open_life, then each: name -> offset, 0 if dead
local now, task, key = clock(ARGV[1]), ARGV[3], KEYS[5]
if not alive(KEYS[3], ARGV[2], now) then return '0' end
local old = call('HMGET', key, 'fs', 'l', 'e', 'xp')
local names = {unpack(ARGV, 9)}
local offset = append(KEYS[1], KEYS[2], ARGV[6], now, 'r', task, 'x', ARGV[4])
call('HSET', key, 'x', ARGV[4], 'l', cmsgpack.pack(names))
if old[1] then
  local place = '\0' .. string.format('%016.0f', tonumber(old[1])) .. '\0' .. task
  unlist(KEYS[7], nil, nil, task, old[1], old[2], false)
  for _, name in ipairs(names) do call('ZADD', KEYS[7], 0, name .. place) end
end
if ARGV[5] == '1' then tail(KEYS[1], KEYS[8], task, now, true) end
local over = old[3] and old[3] ~= '0'
expire_at(KEYS[4], key, KEYS[6], task, now, tonumber(over and ARGV[7] or ARGV[8]), old[4], over)
return offset
