-- Which commands the user may not run, and whether keys are refused. KEYS: scratch, one of each type
-- ARGV now -> a line for each refusal
local hash, set, sorted, list, stream = unpack(KEYS)
local tries = {
  {'HSET', hash, 'f', '1'}, {'HGET', hash, 'f'}, {'HMGET', hash, 'f'}, {'HGETALL', hash}, {'HKEYS', hash},
  {'HVALS', hash}, {'HEXISTS', hash, 'f'}, {'HINCRBY', hash, 'n', 1}, {'HDEL', hash, 'f'},
  {'SADD', set, 'm'}, {'SMEMBERS', set}, {'SREM', set, 'm'},
  {'ZADD', sorted, 1, 'm'}, {'ZSCORE', sorted, 'm'}, {'ZMSCORE', sorted, 'm'}, {'ZCARD', sorted},
  {'ZRANGE', sorted, 0, 0}, {'ZREVRANGE', sorted, 0, 0}, {'ZRANGEBYSCORE', sorted, '-inf', '+inf'},
  {'ZRANGEBYLEX', sorted, '-', '+'}, {'ZREM', sorted, 'm'},
  {'RPUSH', list, 'm'}, {'LRANGE', list, 0, 0}, {'LTRIM', list, 0, 0},
  {'XADD', stream, 'MAXLEN', '~', 1000, '*', 'f', '1'}, {'XREAD', 'COUNT', 1, 'STREAMS', stream, 0},
  {'EXISTS', hash}, {'PEXPIRE', hash, 1000}, {'TIME'}, {'UNLINK', hash, set, sorted, list, stream},
}
local refused = {}
for _, one in ipairs(tries) do
  local answer = redis.pcall(unpack(one))
  if type(answer) == 'table' and answer.err then
    if string.find(answer.err, 'ermission', 1, true) or string.find(answer.err, "can't", 1, true) then
      local what = string.find(answer.err, 'key', 1, true) and 'key ' or 'command '
      refused[#refused + 1] = what .. one[1]
    else
      return redis.error_reply(answer.err)
    end
  end
end
return refused
