-- KEYS queues, then those of each queue; ARGV now, then each queue -> each: how many jobs, when the oldest was written
local now, answers = clock(ARGV[1]), {}
for i = 2, #ARGV do
  local queue = queue_at(KEYS[1], ARGV[i], 2 + (i - 2) * 6)
  expire_jobs(queue, now)
  local count = call('HGET', queue.info, 'n')
  if count then
    answers[#answers + 1] = count
    answers[#answers + 1] = call('ZRANGE', queue.age, 0, 0, 'WITHSCORES')[2] or text(now)
  else
    if call('HEXISTS', KEYS[1], ARGV[i]) == 1 then call('HDEL', KEYS[1], ARGV[i]) end -- its keys have expired
    answers[#answers + 1] = '0'
    answers[#answers + 1] = '0'
  end
end
return answers
