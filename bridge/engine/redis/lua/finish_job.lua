-- KEYS sessions queues, then the queue's; ARGV now session queue id retry_at attempted -> whether it is the session's
local now, session, id, retry_at = clock(ARGV[1]), ARGV[2], ARGV[4], ARGV[5]
local queue = queue_at(KEYS[2], ARGV[3], 3)
if not alive(KEYS[1], session, now) then return 0 end
expire_jobs(queue, now)
local job = call('HMGET', queue.jobs, 's' .. id, 'h' .. id, 'o' .. id, 'z' .. id)
if job[1] ~= session then return 0 end
if retry_at ~= '0' then
  call('HSET', queue.jobs, 's' .. id, '', 'd' .. id, retry_at)
  if ARGV[6] == '0' then call('HINCRBY', queue.jobs, 'a' .. id, -1) end
  put_back(queue, id, job[2], job[3], retry_at, retry_at)
else
  delete_job(queue, id, job[2], job[3], job[4])
end
return 1
