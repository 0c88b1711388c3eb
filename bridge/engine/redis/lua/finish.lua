-- KEYS sessions operation answers meta; ARGV now session answer has_answer name most most_bytes
-- -> whether it is the session's, then the names of operations that are too many: `forget_answers` deletes them
-- `answers` has size (ten digits) and name of each operation that is done, by when it ends; `meta` the sum of the sizes.
local OPERATION_BYTES, MOST_FORGOTTEN = 600, 100
local now, key, answers, meta = clock(ARGV[1]), KEYS[2], KEYS[3], KEYS[4]
local old = call('HMGET', key, 's', 'done', 'd', 'till', 'c')
if not old[1] or tonumber(old[4]) <= now or old[1] ~= ARGV[2] then return {0} end
if old[2] == '1' then return {ARGV[4] == '1' and old[3] == ARGV[3] and 1 or 0} end
if not alive(KEYS[1], ARGV[2], now) then return {0} end
if ARGV[4] ~= '1' then
  call('UNLINK', key)
  return {1}
end
call('HSET', key, 'done', '1', 'd', ARGV[3])
local size = OPERATION_BYTES + #ARGV[5] + #old[5] + #ARGV[3]
call('ZADD', answers, old[4], string.format('%010d', size) .. ARGV[5])
local count = call('ZCARD', answers)
if count == 1 then call('HSET', meta, 'answers', '0') end
local held = call('HINCRBY', meta, 'answers', size)
local function forget(members)
  for _, member in ipairs(members) do
    call('ZREM', answers, member)
    held = call('HINCRBY', meta, 'answers', -tonumber(string.sub(member, 1, 10)))
  end
end
forget(call('ZRANGEBYSCORE', answers, '-inf', text(now), 'LIMIT', 0, MOST_FORGOTTEN))
local gone = {1}
count = call('ZCARD', answers)
while (count > tonumber(ARGV[6]) or held > tonumber(ARGV[7])) and count > 0 and #gone <= MOST_FORGOTTEN do
  local first = call('ZRANGE', answers, 0, 0)
  forget(first)
  gone[#gone + 1] = string.sub(first[1], 11)
  count = count - 1
end
return gone
