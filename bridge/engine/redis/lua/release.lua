-- KEYS sessions owned wants accounts, then each: record orphans
-- ARGV now session hand_over, then each: task account due polled
local now, session, hand_over = clock(ARGV[1]), ARGV[2], ARGV[3]
local lives, answers = alive(KEYS[1], session, now), {}
for i = 0, (#ARGV - 3) / 4 - 1 do
  local key, orphans = KEYS[5 + 2 * i], KEYS[6 + 2 * i]
  local task, account, due, polled = ARGV[4 + 4 * i], ARGV[5 + 4 * i], ARGV[6 + 4 * i], ARGV[7 + 4 * i]
  local fields = call('HMGET', key, 'o', 'k', 'p')
  local newer = tonumber(polled) > tonumber(fields[3] or '0')
  local answer = 'ok'
  if not lives or fields[1] ~= session then
    answer = 'not_mine'
  elseif hand_over == '1' then
    if newer then call('HSET', key, 'p', polled) end
    orphan(key, task, account, due, session, KEYS[2], orphans, KEYS[4])
  elseif fields[2] or wanted(KEYS[3], task, now) then
    answer = 'wanted'
  else
    call('HSET', key, 'o', '', 'due', due, 'p', newer and polled or fields[3] or '0')
    call('ZREM', KEYS[2], session .. '\0' .. task)
  end
  answers[i + 1] = answer
end
return answers
