-- KEYS meta log sessions, then each: record; ARGV now session log_keep, then each: task seconds eta
local now = clock(ARGV[1])
if not alive(KEYS[3], ARGV[2], now) then return end
local entry = {}
for i = 0, (#ARGV - 3) / 3 - 1 do
  local key, task, at, eta = KEYS[4 + i], ARGV[4 + 3 * i], ARGV[5 + 3 * i], ARGV[6 + 3 * i]
  local old = call('HMGET', key, 'v', 'at')
  if old[1] and tonumber(at) > tonumber(old[2] or '0') then
    call('HSET', key, 'at', at, 'eta', eta)
    entry[#entry + 1] = task
    entry[#entry + 1] = at .. ' ' .. eta
  end
end
if #entry > 0 then append(KEYS[1], KEYS[2], ARGV[3], now, 'o', '', unpack(entry)) end
