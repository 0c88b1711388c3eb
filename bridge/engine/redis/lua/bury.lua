-- Tasks of a dead session become orphans, due one after another.
-- KEYS sessions owned accounts about, then each: record orphans
-- ARGV now dead spacing first, then each: task account -> how many
local now, dead, spacing, place = clock(ARGV[1]), ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])
if alive(KEYS[1], dead, now) then return 0 end
local buried = 0
for i = 0, (#ARGV - 4) / 2 - 1 do
  local key, orphans, task, account = KEYS[5 + 2 * i], KEYS[6 + 2 * i], ARGV[5 + 2 * i], ARGV[6 + 2 * i]
  local fields = call('HMGET', key, 'o', 'due')
  if fields[1] == dead then
    local due = math.max(tonumber(fields[2] or '0'), now + (place + buried) * spacing)
    polled_by(key, dead, KEYS[1], KEYS[4])
    orphan(key, task, account, text(due), dead, KEYS[2], orphans, KEYS[3])
    buried = buried + 1
  else
    call('ZREM', KEYS[2], dead .. '\0' .. task)
  end
end
return buried
