-- The jobs of a queue. `jobs` has of each id: b body, o ordering, d due, a attempts, s who claimed it, z size,
-- h handle, r '1' if it is replaceable, f offset of its state. A handle is a number that grows, and the id: of two jobs
-- that are due together the older one is first; a job that takes the place of another has its number.
-- `order` has ordering \0 handle of each job that has an ordering: only the first of each is ready or in flight.
-- `age` has each handle by when it was written. Versions before wrote neither r nor f nor `age`.
local JOB_BYTES = 200
local MOST_EXPIRED = 500

-- A queue, by the place of its first key in KEYS.
local function queue_at(queues, name, place)
  return {queues = queues, name = name, jobs = KEYS[place], ready = KEYS[place + 1], order = KEYS[place + 2],
    info = KEYS[place + 3], flight = KEYS[place + 4], age = KEYS[place + 5]}
end

local function id_of(handle) return string.sub(handle, 17) end

-- The handles of an ordering, in order.
local function chain_of(queue, ordering, most)
  local members = call('ZRANGEBYLEX', queue.order, '[' .. ordering .. '\0', '(' .. ordering .. '\1', 'LIMIT', 0, most)
  for i, member in ipairs(members) do members[i] = string.sub(member, #ordering + 2) end
  return members
end

-- Of a key that may have been made anew: it is gone once all that is in it is too old.
local function expire_with_jobs(key) call('PEXPIRE', key, JOB_MILLISECONDS) end

local function set_ready(queue, handle, at)
  call('ZADD', queue.ready, at, handle)
  expire_with_jobs(queue.ready)
end

-- Delete a job; the next of its ordering is ready.
local function delete_job(queue, id, handle, ordering, size)
  local first = ordering ~= '' and chain_of(queue, ordering, 1)[1]
  call('HDEL', queue.jobs, 'b' .. id, 'o' .. id, 'd' .. id, 'a' .. id, 's' .. id, 'z' .. id, 'h' .. id, 'r' .. id,
    'f' .. id)
  call('ZREM', queue.ready, handle)
  call('ZREM', queue.flight, handle)
  call('ZREM', queue.age, handle)
  call('HINCRBY', queue.info, 'z', 0 - (tonumber(size) or 0))
  if call('HINCRBY', queue.info, 'n', -1) <= 0 then call('UNLINK', queue.info) end
  if call('HINCRBY', queue.queues, queue.name, -1) <= 0 then call('HDEL', queue.queues, queue.name) end
  if ordering == '' then return end
  call('ZREM', queue.order, ordering .. '\0' .. handle)
  local following = first == handle and chain_of(queue, ordering, 1)[1]
  if following then set_ready(queue, following, call('HGET', queue.jobs, 'd' .. id_of(following)) or '0') end
end

-- A job is no longer in flight: it is ready at that time, or the one behind it that takes its place.
local function put_back(queue, id, handle, ordering, due, ready_at)
  local following = ordering ~= '' and call('HGET', queue.jobs, 'r' .. id) == '1' and chain_of(queue, ordering, 2)[2]
  if not following then
    call('ZADD', queue.ready, ready_at, handle)
    expire_with_jobs(queue.ready)
    call('ZREM', queue.flight, handle)
    return
  end
  local heir = id_of(following)
  local moved = string.sub(handle, 1, 16) .. heir
  local old = call('HMGET', queue.jobs, 'a' .. id, 'z' .. id)
  local written = call('ZSCORE', queue.age, handle)
  call('HSET', queue.jobs, 'h' .. heir, moved, 'd' .. heir, due, 'a' .. heir, old[1])
  call('ZREM', queue.order, ordering .. '\0' .. following)
  call('ZREM', queue.age, following)
  call('ZADD', queue.order, 0, ordering .. '\0' .. moved)
  if written then call('ZADD', queue.age, written, moved) end
  delete_job(queue, id, handle, ordering, old[2])
  set_ready(queue, moved, ready_at)
end

-- Fails if a key is of a type that no bridge wrote: before anything is written.
local function check_queue(queue)
  call('HEXISTS', queue.jobs, '')
  call('HEXISTS', queue.info, '')
  for _, key in ipairs({queue.ready, queue.order, queue.flight, queue.age}) do call('ZCARD', key) end
end

-- Delete jobs that are too old, if a bridge of this version wrote them.
local function expire_jobs(queue, now)
  local old = call('ZRANGEBYSCORE', queue.age, '-inf', text(now - JOB_MICROSECONDS), 'LIMIT', 0, MOST_EXPIRED)
  for _, handle in ipairs(old) do
    local id = id_of(handle)
    local job = call('HMGET', queue.jobs, 'h' .. id, 'o' .. id, 'z' .. id)
    if job[1] == handle then delete_job(queue, id, handle, job[2], job[3]) else call('ZREM', queue.age, handle) end
  end
end

-- Whether there was room. A job behind one that waits and is replaceable takes its place, for which there is room.
local function add_job(queue, id, body, ordering, due, attempts, replaceable, offset, now, most, most_bytes)
  if call('HEXISTS', queue.jobs, 'b' .. id) == 1 then return true end
  local size, written = JOB_BYTES + #body + #id + #ordering, text(now)
  local chain = ordering ~= '' and chain_of(queue, ordering, -1) or {}
  local before, number, old = chain[#chain], nil, nil
  if before and call('HGET', queue.jobs, 'r' .. id_of(before)) == '1' and not call('ZSCORE', queue.flight, before) then
    old = call('HMGET', queue.jobs, 'd' .. id_of(before), 'a' .. id_of(before), 'z' .. id_of(before))
    number, due, attempts = string.sub(before, 1, 16), old[1], old[2]
    written = call('ZSCORE', queue.age, before) or written
  else
    local held = call('HMGET', queue.info, 'n', 'z')
    if tonumber(held[1] or '0') >= most or tonumber(held[2] or '0') + size > most_bytes then return false end
    number = string.format('%016.0f', call('HINCRBY', queue.info, 'seq', 1))
  end
  local handle = number .. id
  call('HINCRBY', queue.info, 'n', 1)
  call('HINCRBY', queue.info, 'z', size)
  call('HINCRBY', queue.queues, queue.name, 1)
  call('HSET', queue.jobs, 'b' .. id, body, 'o' .. id, ordering, 'd' .. id, due, 'a' .. id, attempts, 's' .. id, '',
    'z' .. id, size, 'h' .. id, handle, 'r' .. id, replaceable, 'f' .. id, offset)
  call('ZADD', queue.age, written, handle)
  if ordering ~= '' then call('ZADD', queue.order, 0, ordering .. '\0' .. handle) end
  if old then delete_job(queue, id_of(before), before, ordering, old[3]) end
  if #chain == 0 or (old and #chain == 1) then set_ready(queue, handle, due) end
  for _, key in ipairs({queue.jobs, queue.info, queue.age, queue.order}) do expire_with_jobs(key) end
  return true
end
