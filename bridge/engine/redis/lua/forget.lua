-- Delete tasks whose time is over. Those that have not ended and are in use stay.
-- KEYS sessions owned wants accounts expiry, then each: record history orphans open ended list listed tails
-- ARGV now blank_life ended_life open_life, then each: task account -> how many are deleted
local now, deleted = clock(ARGV[1]), 0
for i = 0, (#ARGV - 4) / 2 - 1 do
  local k, task, account = 6 + 8 * i, ARGV[5 + 2 * i], ARGV[6 + 2 * i]
  local key, orphans = KEYS[k], KEYS[k + 2]
  local due = call('ZSCORE', KEYS[5], task)
  if due and tonumber(due) <= now then
    local old = call('HMGET', key, 'o', 'e', 'v', 'k', 'fs', 'l', 'x')
    local used = old[4] or wanted(KEYS[3], task, now) or alive(KEYS[1], old[1], now) or call('ZSCORE', orphans, task)
    if old[2] ~= '1' and used then
      local life = ARGV[4]
      if old[2] == '2' then life = ARGV[3] elseif not old[3] and not old[7] then life = ARGV[2] end
      expire_at(KEYS[5], key, KEYS[k + 1], task, now, tonumber(life), nil, true)
    else
      unlist(KEYS[k + 5], KEYS[k + 6], account, task, old[5], old[6], true)
      call('UNLINK', key, KEYS[k + 1])
      for _, other in ipairs({KEYS[3], KEYS[5], KEYS[k + 3], KEYS[k + 4], KEYS[k + 7]}) do
        call('ZREM', other, task)
      end
      if old[1] and old[1] ~= '' then call('ZREM', KEYS[2], old[1] .. '\0' .. task) end
      unorphan(orphans, KEYS[4], task, account)
      deleted = deleted + 1
    end
  end
end
return deleted
