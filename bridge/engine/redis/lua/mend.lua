-- Of these keys, delete what belongs to one task or account and is of a type, or has a number, that no bridge wrote.
-- KEYS any; ARGV now, then each: what it should be, and whether it is deleted if it is not
-- -> the places of those that were wrong
local tries = {
  hash = function(key) return redis.pcall('HGET', key, 'v') end,
  list = function(key) return redis.pcall('LRANGE', key, 0, 0) end,
  sorted = function(key) return redis.pcall('ZCARD', key) end,
  set = function(key) return redis.pcall('SREM', key, '\0') end,
  stream = function(key) return redis.pcall('XREAD', 'COUNT', 1, 'STREAMS', key, '0') end,
}
local numbers = {'v', 'f', 'fs', 'due', 'p', 'at', 'xp', 'called', 'gone'}
local function wrong(kind, key)
  local answer = tries[kind == 'record' and 'hash' or kind](key)
  if type(answer) == 'table' and answer.err then return true end
  if kind ~= 'record' then return false end
  for _, number in ipairs(call('HMGET', key, unpack(numbers))) do
    if number and not tonumber(number) then return true end
  end
  local ending = call('HGET', key, 'e')
  return ending and ending ~= '0' and ending ~= '1' and ending ~= '2'
end

local places = {}
for i, key in ipairs(KEYS) do
  local kind, deleted = ARGV[2 * i], ARGV[2 * i + 1]
  if tries[kind == 'record' and 'hash' or kind] and wrong(kind, key) then
    if deleted == '1' then call('UNLINK', key) end
    places[#places + 1] = i
  end
end
return places
