-- KEYS sessions queues, then the queue's; ARGV now session queue limit lease ahead bytes
-- -> each: id body ordering due attempts replaceable offset
local queue = queue_at(KEYS[2], ARGV[3], 3)
-- Nearly always: every process asks every queue again and again.
if call('EXISTS', queue.info) == 0 then return {} end
local now, session = clock(ARGV[1]), ARGV[2]
if not alive(KEYS[1], session, now) then return {} end
expire_jobs(queue, now)
local flight = call('ZRANGE', queue.flight, 0, 999, 'WITHSCORES')
for i = 1, #flight, 2 do
  local handle, id = flight[i], id_of(flight[i])
  local job = call('HMGET', queue.jobs, 'h' .. id, 's' .. id, 'o' .. id, 'd' .. id)
  if job[1] ~= handle then
    call('ZREM', queue.flight, handle)
  elseif tonumber(flight[i + 1]) <= now or not alive(KEYS[1], job[2], now) then
    put_back(queue, id, handle, job[3], job[4], text(now))
  end
end
local claimed, size = {}, 0
local function is_whole(number) return number and string.find(number, '^%d+$') and #number <= 16 end
for _, handle in ipairs(call('ZRANGEBYSCORE', queue.ready, '-inf', text(now + tonumber(ARGV[6])), 'LIMIT', 0, ARGV[4])) do
  if size >= tonumber(ARGV[7]) then break end
  local id = id_of(handle)
  local job = call('HMGET', queue.jobs, 'h' .. id, 'b' .. id, 'o' .. id, 'd' .. id, 'r' .. id, 'f' .. id, 'a' .. id,
    'z' .. id)
  local whole = job[2] and job[3] and is_whole(job[4]) and is_whole(job[6] or '0') and is_whole(job[7])
  if job[1] == handle and not whole then -- another program wrote over it
    delete_job(queue, id, handle, job[3] or '', job[8])
  elseif job[1] == handle then
    call('HSET', queue.jobs, 's' .. id, session)
    call('ZADD', queue.flight, text(now + tonumber(ARGV[5])), handle)
    local attempts = call('HINCRBY', queue.jobs, 'a' .. id, 1)
    claimed[#claimed + 1] = {id, job[2], job[3], job[4], attempts, job[5] or '', job[6] or '0'}
    size = size + #job[2]
  end
  call('ZREM', queue.ready, handle)
end
if #claimed > 0 then expire_with_jobs(queue.flight) end
return claimed
