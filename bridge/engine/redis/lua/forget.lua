-- Delete tasks whose time is over. Those that have not ended and are in use stay.
-- KEYS sessions owned wants accounts expiry, then each: record history orphans open ended list tails
-- ARGV now blank_life ended_life open_life, then each: task account -> how many are deleted
local now, deleted = clock(ARGV[1]), 0
for i = 0, (#ARGV - 4) / 2 - 1 do
  local k, task, account = 6 + 7 * i, ARGV[5 + 2 * i], ARGV[6 + 2 * i]
  local key, orphans, list = KEYS[k], KEYS[k + 2], KEYS[k + 5]
  local due = call('ZSCORE', KEYS[5], task)
  if due and tonumber(due) <= now then
    local old = call('HMGET', key, 'o', 'e', 'v', 'k', 'fs', 'l', 'x')
    local used = old[4] or wanted(KEYS[3], task, now) or alive(KEYS[1], old[1], now) or call('ZSCORE', orphans, task)
    if old[2] ~= '1' and used then
      local life = ARGV[4]
      if old[2] == '2' then life = ARGV[3] elseif not old[3] and not old[7] then life = ARGV[2] end
      expire_at(KEYS[5], key, KEYS[k + 1], task, now, tonumber(life), nil, true)
    else
      if old[5] then
        local place = '\0' .. string.format('%016.0f', tonumber(old[5])) .. '\0' .. task
        local names = old[6] and cmsgpack.unpack(old[6]) or {}
        names[#names + 1] = ''
        for _, name in ipairs(names) do call('ZREM', list, name .. place) end
      end
      call('UNLINK', key, KEYS[k + 1])
      for _, other in ipairs({KEYS[3], KEYS[5], KEYS[k + 3], KEYS[k + 4], KEYS[k + 6]}) do
        call('ZREM', other, task)
      end
      if old[1] and old[1] ~= '' then call('ZREM', KEYS[2], old[1] .. '\0' .. task) end
      unorphan(orphans, KEYS[4], task, account)
      deleted = deleted + 1
    end
  end
end
return deleted
