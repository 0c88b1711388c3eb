-- The jobs of a queue. `jobs` has of each id: b body, o ordering, d due, a attempts, s who claimed it, z size,
-- h handle. A handle is a number that grows, and the id: of two jobs that are due together the older one is first.
-- `order` has ordering \0 handle of each job that has an ordering: only the first of each is ready or in flight.
local JOB_BYTES = 200

local function first_of(order, ordering)
  return call('ZRANGEBYLEX', order, '[' .. ordering .. '\0', '(' .. ordering .. '\1', 'LIMIT', 0, 1)[1]
end

-- Whether there was room.
local function add_job(queues, queue, jobs, ready, order, info, id, body, ordering, due, attempts, most, most_bytes)
  if call('HEXISTS', jobs, 'b' .. id) == 1 then return true end
  local size = JOB_BYTES + #body + #id + #ordering
  local held = call('HMGET', info, 'n', 'z')
  if tonumber(held[1] or '0') >= most or tonumber(held[2] or '0') + size > most_bytes then return false end
  local handle = string.format('%016.0f', call('HINCRBY', info, 'seq', 1)) .. id
  call('HINCRBY', info, 'n', 1)
  call('HINCRBY', info, 'z', size)
  call('HINCRBY', queues, queue, 1)
  call('HSET', jobs, 'b' .. id, body, 'o' .. id, ordering, 'd' .. id, due, 'a' .. id, attempts, 's' .. id, '',
    'z' .. id, size, 'h' .. id, handle)
  if ordering ~= '' then
    call('ZADD', order, 0, ordering .. '\0' .. handle)
    if first_of(order, ordering) ~= ordering .. '\0' .. handle then return true end
  end
  call('ZADD', ready, due, handle)
  return true
end
