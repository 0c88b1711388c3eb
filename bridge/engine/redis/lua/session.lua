-- KEYS meta log sessions about owned wants expiry
-- ARGV now session ttl known_head new_epoch history about opens log_keep format
-- -> state now epoch head {session about ...} {overdue task ...}, or 'format' and the one found
local meta, sessions = KEYS[1], KEYS[3]
local now, session = clock(ARGV[1]), ARGV[2]
local till, known_head, history = now + tonumber(ARGV[3]), tonumber(ARGV[4]), ARGV[6]
local stored = call('HMGET', meta, 'epoch', 'head', 'history', 'format')
if stored[4] and not READABLE_FORMATS[stored[4]] then return {'format', stored[4]} end
local epoch, head = stored[1], tonumber(stored[2] or '0')
local other = history ~= '' and stored[3] and stored[3] ~= '' and stored[3] ~= history
if not epoch or other or known_head > head then
  epoch, head = ARGV[5], math.max(now, known_head, head) + 1
  call('HSET', meta, 'epoch', epoch, 'head', text(head), 'history', history, 'format', ARGV[10])
elseif history ~= '' and stored[3] == '' then
  call('HSET', meta, 'history', history)
end

local until_before = call('ZSCORE', sessions, session)
local state = 'expired'
if not until_before and ARGV[8] == '1' then
  state = 'opened'
elseif until_before and tonumber(until_before) > now then
  state = ARGV[8] == '1' and 'opened' or 'renewed'
end
if state ~= 'expired' then
  call('ZADD', sessions, text(till), session)
  call('HSET', KEYS[4], session, ARGV[7], '+' .. session, text(now))
end
if state == 'renewed' and now - head >= BEAT_MICROSECONDS then
  head = append(meta, KEYS[2], ARGV[9], now, 'a', session)
end

-- What has been of no use for an hour: sessions that own nothing. And interest that has ended.
for _, dead in ipairs(call('ZRANGEBYSCORE', sessions, '-inf', text(now - 3600000000), 'LIMIT', 0, 16)) do
  if #call('ZRANGEBYLEX', KEYS[5], '[' .. dead .. '\0', '(' .. dead .. '\1', 'LIMIT', 0, 1) == 0 then
    call('ZREM', sessions, dead)
    call('HDEL', KEYS[4], dead, '+' .. dead)
  end
end
local ended = call('ZRANGEBYSCORE', KEYS[6], '-inf', text(now), 'LIMIT', 0, 500)
if #ended > 0 then call('ZREM', KEYS[6], unpack(ended)) end

local live, names = {}, call('ZRANGEBYSCORE', sessions, '(' .. text(now), '+inf')
local abouts = #names > 0 and call('HMGET', KEYS[4], unpack(names))
for i, name in ipairs(names) do
  live[#live + 1] = name
  live[#live + 1] = abouts[i] or ''
end
local overdue = call('ZRANGEBYSCORE', KEYS[7], '-inf', text(now), 'LIMIT', 0, 64)
if type(head) == 'number' then head = text(head) end
return {state, text(now), epoch, head, live, overdue}
