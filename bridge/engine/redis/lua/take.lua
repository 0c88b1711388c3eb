-- KEYS sessions budget permits planned open
-- ARGV now session apart slots horizon permits most planned open factor raised highest (apart and most empty for no limit; microseconds)
-- -> now permits next paused failures planned open factor slot ...
local now, session, idle = clock(ARGV[1]), ARGV[2], 900000
local lives, sums = alive(KEYS[1], session, now), {}
for place = 3, 5 do
  local held, sum = call('HGETALL', KEYS[place]), 0
  for i = 1, #held, 2 do
    if not alive(KEYS[1], held[i], now) then
      call('HDEL', KEYS[place], held[i])
    elseif held[i] ~= session then
      sum = sum + tonumber(held[i + 1])
    end
  end
  sums[place] = sum
end
local budget = call('HMGET', KEYS[2], 'next', 'paused', 'fails', 'factor')
local next_slot, paused = tonumber(budget[1] or '0'), tonumber(budget[2] or '0')
local factor = tonumber(budget[4] or '')
local slots, permits, planned, open = {}, 0, sums[4], sums[5]
if lives then
  local at, last = math.max(now, next_slot, paused), now + tonumber(ARGV[5])
  if ARGV[3] ~= '' then
    while #slots < tonumber(ARGV[4]) and at <= last do
      slots[#slots + 1] = text(at)
      at = at + tonumber(ARGV[3])
    end
  end
  if #slots > 0 then next_slot = at end
  permits = tonumber(ARGV[6])
  if ARGV[7] ~= '' then permits = math.min(permits, math.max(tonumber(ARGV[7]) - sums[3], 0)) end
  planned, open = planned + tonumber(ARGV[8]), open + tonumber(ARGV[9])
  call('HSET', KEYS[2], 'next', text(next_slot))
  if tonumber(ARGV[9]) > 0 then
    factor = factor and math.min(math.max(factor * tonumber(ARGV[11]), 1), tonumber(ARGV[12])) or tonumber(ARGV[10])
    call('HSET', KEYS[2], 'factor', string.format('%.17g', factor))
  elseif open == 0 then
    factor = nil
    call('HDEL', KEYS[2], 'factor')
  end
  if permits > 0 then call('HSET', KEYS[3], session, permits) else call('HDEL', KEYS[3], session) end
  if tonumber(ARGV[8]) ~= 0 then call('HSET', KEYS[4], session, ARGV[8]) else call('HDEL', KEYS[4], session) end
  if tonumber(ARGV[9]) ~= 0 then call('HSET', KEYS[5], session, ARGV[9]) else call('HDEL', KEYS[5], session) end
  -- A credential that is not used any more is forgotten.
  local busy = math.ceil(math.max(next_slot - now, paused - now, 0) / 1000)
  for place = 2, 5 do call('PEXPIRE', KEYS[place], idle + busy) end
else
  permits = tonumber(call('HGET', KEYS[3], session) or '0')
end
return {text(now), permits, text(math.max(next_slot, paused, now)), text(paused), budget[3] or '0',
  string.format('%.17g', planned), text(open), string.format('%.17g', factor or 1), unpack(slots)}
