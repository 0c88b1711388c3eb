-- Before each script. Offsets and times are microseconds below 2^53: exact as Lua numbers, written out by `text`.
-- Rule: the first command of a script that writes is one that a full server refuses, so that nothing is left half
-- written. Rule: no key is touched that is not in KEYS.
local call = redis.call
local function text(number)
  if number < 1000000000 then return string.format('%.0f', number) end
  -- The same in two halves: for sixteen digits, `%.0f` takes ten times as long.
  local low = math.fmod(number, 1000000000)
  return string.format('%d%09d', (number - low) / 1000000000, low)
end

-- The engine's clock; tests bring their own time.
local function clock(given)
  if given ~= '' then return tonumber(given) end
  local time = call('TIME')
  return time[1] * 1000000 + time[2]
end

-- Whether a session lives; each is looked up once.
local known = {}
local function alive(sessions, session, now)
  if not session or session == '' then return false end
  if known[session] == nil then
    local till = call('ZSCORE', sessions, session)
    known[session] = till and tonumber(till) > now or false
  end
  return known[session]
end

-- One entry of the log, above all others; returns its offset.
local function append(meta, log, keep, now, ...)
  local head = tonumber(call('HGET', meta, 'head') or '0')
  local offset = head + 1
  if now > offset then offset = now end
  local id = text(offset)
  call('XADD', log, 'MAXLEN', '~', keep, id .. '-0', 'p', text(head), ...)
  call('HSET', meta, 'head', id)
  return id
end

local function unorphan(orphans, accounts, task, account)
  if call('ZREM', orphans, task) == 1 and call('EXISTS', orphans) == 0 then call('SREM', accounts, account) end
end

-- A task is taken from a dead session: until when that may have polled it, for who takes the task. That is until it
-- should have been renewed again.
local function polled_by(key, owner, sessions, about)
  if not owner or owner == '' then return end
  local till = tonumber(call('ZSCORE', sessions, owner) or '0')
  local renewed = tonumber(call('HGET', about, '+' .. owner) or till)
  local polled = math.min(math.floor((renewed + till) / 2), renewed + UNHEARD)
  if polled > tonumber(call('HGET', key, 'p') or '0') then call('HSET', key, 'p', text(polled)) end
end

-- A live session owns the task from now on.
local function give(key, task, account, session, owner, owned, orphans, accounts)
  call('HSET', key, 'o', session)
  call('ZADD', owned, 0, session .. '\0' .. task)
  if owner and owner ~= '' and owner ~= session then call('ZREM', owned, owner .. '\0' .. task) end
  unorphan(orphans, accounts, task, account)
end

-- Nobody owns the task; who claims it polls it when it is due.
local function orphan(key, task, account, due, owner, owned, orphans, accounts)
  call('ZADD', orphans, due, task)  -- first: if it is of another type, nothing has changed
  call('HSET', key, 'o', '', 'due', due)
  call('SADD', accounts, account)
  if owner and owner ~= '' then call('ZREM', owned, owner .. '\0' .. task) end
end

-- Found by the end of its id from now on; the one that changed last comes first.
local function tail(meta, tails, task, now, changed)
  if not changed and call('ZSCORE', tails, task) then return end
  local place = text(math.max(tonumber(call('HGET', meta, 'tail') or '0') + 1, now))
  call('HSET', meta, 'tail', place)
  call('ZADD', tails, place, task)
end

local function wanted(wants, task, now)
  local till = call('ZSCORE', wants, task)
  return till and tonumber(till) > now
end

-- When the record is deleted, if nothing touches it until then. Moved only if that is worth a write (an eighth of
-- the time), and then by so much further. The server's own expiry is for keys that no bridge is left to delete.
local WEEK = 604800000
local function expire_at(expiry, key, history, task, now, life, stored, exact)
  stored = tonumber(stored or '0')
  local due = now + life
  if exact or due > stored then
    if not exact then due = due + math.floor(life / 8) end
    call('HSET', key, 'xp', text(due))
    call('ZADD', expiry, text(due), task)
    local left = text(math.floor(life / 1000) + WEEK)
    call('PEXPIRE', key, left)
    if history then call('PEXPIRE', history, left) end
  end
end
