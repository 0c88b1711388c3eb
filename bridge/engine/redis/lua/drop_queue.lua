-- KEYS queues, then the queue's; ARGV now queue -> how many jobs there were
local count = call('HGET', queue_at(KEYS[1], ARGV[2], 2).info, 'n') or '0'
call('HDEL', KEYS[1], ARGV[2])
call('UNLINK', unpack(KEYS, 2))
return tonumber(count)
