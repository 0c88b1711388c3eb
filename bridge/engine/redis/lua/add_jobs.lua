-- KEYS queues, then those of the jobs' queues
-- ARGV now most_jobs most_job_bytes, then each job: place of its queue's keys, queue id body ordering due attempts
--   replaceable offset
-- -> how many had no room
local now, most, most_bytes = clock(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
for at = 4, #ARGV, 9 do check_queue(queue_at(KEYS[1], ARGV[at + 1], tonumber(ARGV[at]))) end
local dropped = 0
for at = 4, #ARGV, 9 do
  local queue = queue_at(KEYS[1], ARGV[at + 1], tonumber(ARGV[at]))
  expire_jobs(queue, now)
  local room = add_job(queue, ARGV[at + 2], ARGV[at + 3], ARGV[at + 4], ARGV[at + 5], ARGV[at + 6], ARGV[at + 7],
    ARGV[at + 8], now, most, most_bytes)
  if not room then dropped = dropped + 1 end
end
return dropped
