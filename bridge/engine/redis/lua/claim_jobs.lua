-- KEYS sessions jobs ready order info flight; ARGV now session limit lease -> each: id body ordering due attempts
local now, session, jobs, ready, flight = clock(ARGV[1]), ARGV[2], KEYS[2], KEYS[3], KEYS[6]
local claimed = {}
if not alive(KEYS[1], session, now) then return claimed end
for _, handle in ipairs(call('ZRANGE', flight, 0, 999)) do
  local till = tonumber(call('ZSCORE', flight, handle))
  if till <= now or not alive(KEYS[1], call('HGET', jobs, 's' .. string.sub(handle, 17)), now) then
    call('ZADD', ready, text(now), handle)
    call('ZREM', flight, handle)
  end
end
for _, handle in ipairs(call('ZRANGEBYSCORE', ready, '-inf', text(now), 'LIMIT', 0, ARGV[3])) do
  local id = string.sub(handle, 17)
  call('HSET', jobs, 's' .. id, session)
  call('ZADD', flight, text(now + tonumber(ARGV[4])), handle)
  call('ZREM', ready, handle)
  call('HINCRBY', jobs, 'a' .. id, 1)
  local job = call('HMGET', jobs, 'b' .. id, 'o' .. id, 'd' .. id, 'a' .. id)
  claimed[#claimed + 1] = {id, job[1], job[2], job[3], job[4]}
end
return claimed
