-- KEYS sessions owned wants accounts expiry meta about, then each: record orphans tails
-- ARGV now session linger blank_life, then each: task account may_own has_tail -> each: owner, record
local sessions, owned, wants, accounts = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local now, session = clock(ARGV[1]), ARGV[2]
local till, lives = text(now + tonumber(ARGV[3])), alive(sessions, session, now)
local answers = {}
for i = 0, (#ARGV - 4) / 4 - 1 do
  local key, orphans, tails = KEYS[8 + 3 * i], KEYS[9 + 3 * i], KEYS[10 + 3 * i]
  local task, account, may_own, has_tail = ARGV[5 + 4 * i], ARGV[6 + 4 * i], ARGV[7 + 4 * i], ARGV[8 + 4 * i]
  local fields = call('HMGET', key, 'o', 'e', 'xp')
  local who = 'none'
  if fields[2] == '1' then
    who = 'over'
  else
    if lives then
      call('ZADD', wants, 'GT', till, task)
      if has_tail == '1' then tail(KEYS[6], tails, task, now) end
    end
    if alive(sessions, fields[1], now) then
      who = fields[1] == session and 'me' or 'other'
    elseif lives and may_own == '1' then
      polled_by(key, fields[1], sessions, KEYS[7])
      give(key, task, account, session, fields[1], owned, orphans, accounts)
      if not fields[3] then expire_at(KEYS[5], key, nil, task, now, tonumber(ARGV[4])) end
      who = 'me'
    end
  end
  answers[i + 1] = {who, call('HGETALL', key)}
end
return answers
