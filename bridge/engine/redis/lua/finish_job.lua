-- KEYS sessions jobs ready order info flight queues; ARGV now session queue id retry_at -> whether it is the session's
local now, jobs, id = clock(ARGV[1]), KEYS[2], ARGV[4]
local job = call('HMGET', jobs, 's' .. id, 'h' .. id, 'o' .. id, 'z' .. id)
if not job[1] or job[1] ~= ARGV[2] or not alive(KEYS[1], ARGV[2], now) then return 0 end
local handle, ordering = job[2], job[3]
if ARGV[5] ~= '0' then
  call('HSET', jobs, 's' .. id, '', 'd' .. id, ARGV[5])
  call('ZADD', KEYS[3], ARGV[5], handle)
  call('ZREM', KEYS[6], handle)
  return 1
end
call('HDEL', jobs, 'b' .. id, 'o' .. id, 'd' .. id, 'a' .. id, 's' .. id, 'z' .. id, 'h' .. id)
call('ZREM', KEYS[3], handle)
call('ZREM', KEYS[6], handle)
call('HINCRBY', KEYS[5], 'z', -tonumber(job[4]))
if call('HINCRBY', KEYS[5], 'n', -1) == 0 then call('UNLINK', KEYS[5]) end
if call('HINCRBY', KEYS[7], ARGV[3], -1) <= 0 then call('HDEL', KEYS[7], ARGV[3]) end
if ordering ~= '' then
  call('ZREM', KEYS[4], ordering .. '\0' .. handle)
  local following = first_of(KEYS[4], ordering)
  if following then
    local ready = string.sub(following, #ordering + 2)
    call('ZADD', KEYS[3], call('HGET', jobs, 'd' .. string.sub(ready, 17)), ready)
  end
end
return 1
