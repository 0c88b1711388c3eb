-- Of these orphans of one account, those that are due and wanted or kept become the session's.
-- KEYS sessions owned wants accounts orphans, then each: record; ARGV now session account, then each: task
-- -> each claimed: task, record
local now, session, account = clock(ARGV[1]), ARGV[2], ARGV[3]
local claimed = {}
if not alive(KEYS[1], session, now) then return claimed end
for i = 1, #ARGV - 3 do
  local key, task = KEYS[5 + i], ARGV[3 + i]
  local due = call('ZSCORE', KEYS[5], task)
  if due and tonumber(due) <= now then
    local fields = call('HMGET', key, 'o', 'k')
    if fields[2] or wanted(KEYS[3], task, now) then
      give(key, task, account, session, fields[1], KEYS[2], KEYS[5], KEYS[4])
      claimed[#claimed + 1] = {task, call('HGETALL', key)}
    else
      unorphan(KEYS[5], KEYS[4], task, account)
    end
  end
end
return claimed
