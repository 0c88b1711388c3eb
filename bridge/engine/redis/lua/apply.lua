-- KEYS meta log sessions owned wants accounts expiry queues, then those that states name by their place
-- ARGV now session log_keep history ended_life open_life most_jobs most_job_bytes, then each state:
--   its fields (`STATE` below), document, raw, [details, name ...] and each job: place of its queue's keys,
--   queue id body ordering due attempts replaceable
-- -> each: offset if it is recorded, else (or with dropped jobs) verdict offset version dropped [record]
local meta, log, sessions, owned, wants, accounts, expiry, queues =
  KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6], KEYS[7], KEYS[8]
local now, session, keep, most_history = clock(ARGV[1]), ARGV[2], ARGV[3], tonumber(ARGV[4])
local ended_life, open_life = tonumber(ARGV[5]), tonumber(ARGV[6])
local lives = alive(sessions, session, now)
local head_id = call('HGET', meta, 'head') or '0'
local head, head_before = tonumber(head_id), head_id
local args, keys, at = ARGV, KEYS, 8
-- An argument costs a server as much as reading all these: mode, end, whether there is raw, how many details and
-- names, how many jobs, the places of the task's keys (record history), of its account's (open ended list orphans listed)
-- and of tails (0 for none), then with their lengths expect, version, by, digest and task.
local STATE = '>Bc1BHHI4I4I4I4c0I4c0I4c0I4c0I4c0'
local OWNER, AMEND, KEEP = 1, 2, 4 -- the last is added to a mode
-- Trimming each time would cost as much as adding: readers take the newest `most_history`.
local trim_beyond = most_history + math.ceil(most_history / 4)
-- The states of one call are written where they are one command for all of them, at the end: key -> task -> offset.
local opened = {}

local function verdict(key, old, mode, expect, version, by, fin, digest)
  local recorded = tonumber(old[1] or '0')
  if recorded > 0 and ((old[1] == version and old[2] == by) or old[3] == digest) then return 'duplicate' end
  if not lives or (mode == OWNER and old[4] ~= session) then return 'fenced' end
  local over = old[5] and old[5] ~= '0' and mode ~= AMEND
  if over and not (old[5] == '2' and fin == '1') then return 'final' end
  if recorded > 0 and old[1] ~= expect then return 'stale' end
  -- Without a record it may have been forgotten since: asked only of what builds on one.
  if recorded == 0 and version ~= '1' and call('HEXISTS', key, 'gone') == 1 then return 'stale' end
  return 'recorded'
end

-- The task is in the lists of its account from its first state on, by its names as they are now.
local function relist(list, task, first, old_names, names)
  local place = '\0' .. string.format('%016.0f', tonumber(first)) .. '\0' .. task
  for _, name in ipairs(old_names) do call('ZREM', list, name .. place) end
  for _, name in ipairs(names) do call('ZADD', list, 0, name .. place) end
end

local function end_task(key, task, owner, orphans)
  local gone = {'k'}
  for _, field in ipairs(call('HKEYS', key)) do
    if string.sub(field, 1, 2) == 'n:' then gone[#gone + 1] = field end
  end
  call('HDEL', key, unpack(gone))
  call('HSET', key, 'o', '')
  if owner and owner ~= '' then call('ZREM', owned, owner .. '\0' .. task) end
  call('ZREM', wants, task)
  unorphan(orphans, accounts, task, string.match(task, '^[^/]*/([^/]*)/'))
end

local function add_entry(task, stamp, digest, document, raw, details)
  local offset = head + 1
  if now > offset then offset = now end
  local id = text(offset)
  if document and raw and not details and head_id ~= head_before then -- nearly all
    call('XADD', log, id .. '-0', 'p', head_id, 'k', task, 's', stamp, 'c', digest, 'd', document, 'w', raw)
  else
    local entry = {id .. '-0', 'p', head_id, 'k', task, 's', stamp, 'c', digest}
    if document then entry[10], entry[11] = 'd', document end
    if raw then entry[#entry + 1], entry[#entry + 2] = 'w', raw end
    if details then entry[#entry + 1], entry[#entry + 2] = 'x', details end
    if head_id == head_before then -- the first of a call trims the log
      call('XADD', log, 'MAXLEN', '~', keep, unpack(entry))
    else
      call('XADD', log, unpack(entry))
    end
  end
  head, head_id = offset, id
  return id
end

local function write_record(key, old, version, by, id, digest, fin, document, raw)
  if old[2] ~= by or old[5] ~= fin then call('HSET', key, 'by', by, 'e', fin) end
  if raw then
    call('HSET', key, 'v', version, 'f', id, 'c', digest, 'd', document, 'w', raw)
  else
    call('HSET', key, 'v', version, 'f', id, 'c', digest, 'd', document)
    if old[1] then call('HDEL', key, 'w') end
  end
end

local function record(old, task, mode, fin, version, by, digest, key, with_raw, described, place, account, tails)
  local document, raw = args[at + 2], with_raw == 1 and args[at + 3] or nil
  local amended = mode == AMEND and old[5] and old[5] ~= '0' and (old[5] == '1' or fin ~= '1')
  if amended then fin = old[5] end

  local details, first = described > 0 and args[at + 4] or nil, old[6]
  local stored = (details or not first) and call('HMGET', key, 'x', 'l') or {}
  local changed = details and details ~= stored[1]
  local fits = #document + (raw and #raw or 0) <= ENTRY_BYTES
  local stamp = version .. ' ' .. fin .. (amended and ' 1 ' or ' 0 ') .. by
  local id = add_entry(task, stamp, digest, fits and document, fits and raw,
    changed and details or not first and stored[1])
  -- Who was sent the end has everything: an amendment leaves its offset.
  local place_id = amended and call('HGET', key, 'f') or id
  write_record(key, old, version, by, place_id, digest, fin, document, raw)

  local history = keys[place + 1]
  -- thirty large ones of each task would fill the engine: the record has the newest
  local past = place_id .. ' ' .. #document .. (raw and fits and ' 1\n' or ' 0\n') .. document .. (fits and raw or '')
  if amended and call('LLEN', history) > 0 then
    call('LSET', history, -1, past)
  elseif call('RPUSH', history, past) > trim_beyond then call('LTRIM', history, -most_history, -1) end

  if changed or not first then
    local old_names = stored[2] and cmsgpack.unpack(stored[2]) or {}
    local new_names = changed and {unpack(args, at + 5, at + 3 + described)} or old_names
    if changed then call('HSET', key, 'x', details, 'l', cmsgpack.pack(new_names)) end
    if not first then
      call('HSET', key, 'fs', id)
      new_names[#new_names + 1] = ''
      relist(keys[account + 2], task, id, {}, new_names)
      call('SADD', keys[account + 4], string.match(task, '^[^/]*/([^/]*)/'))
    else
      relist(keys[account + 2], task, first, old_names, new_names)
    end
  end
  if not amended then
    local open = keys[account]
    if not opened[open] then opened[open] = {} end
    if fin == '0' then
      opened[open][task] = id
    else
      opened[open][task] = nil
      call('ZADD', keys[account + 1], id, task)
      call('ZREM', open, task)
    end
  end
  if tails > 0 then tail(meta, keys[tails], task, now, true) end
  expire_at(expiry, key, history, task, now, fin == '0' and open_life or ended_life, old[7], fin ~= '0' or not old[1])
  if fin == '1' and not amended then end_task(key, task, old[4], keys[account + 3]) end
  return id, place_id
end

local function keep_on(key, task, owner, orphans)
  call('HSET', key, 'k', '1')
  if owner and owner ~= '' or call('ZSCORE', orphans, task) then return end
  orphan(key, task, string.match(task, '^[^/]*/([^/]*)/'), text(now + KEPT_MICROSECONDS), '', owned, orphans, accounts)
end

-- How many had no room.
local function add_jobs(job, jobs, offset)
  local dropped = 0
  for _ = 1, jobs do
    local queue = queue_at(queues, args[job + 2], tonumber(args[job + 1]))
    expire_jobs(queue, now)
    local room = add_job(queue, args[job + 3], args[job + 4], args[job + 5], args[job + 6], args[job + 7],
      args[job + 8], offset, now, tonumber(args[7]), tonumber(args[8]))
    if not room then dropped = dropped + 1 end
    job = job + 8
  end
  return dropped
end

local answers = {}
local function apply_all()
  while at < #args do
    local mode, fin, with_raw, described, jobs, place, account, tails, expect, version, by, digest, task =
      struct.unpack(STATE, args[at + 1])
    local key, kept = keys[place], mode >= KEEP
    if kept then mode = mode - KEEP end
    local old = call('HMGET', key, 'v', 'by', 'c', 'o', 'e', 'fs', 'xp')
    local result = verdict(key, old, mode, expect, version, by, fin, digest)
    if result == 'recorded' then
      local first_job = at + 3 + described
      for job = first_job, first_job + 8 * (jobs - 1), 8 do
        check_queue(queue_at(queues, args[job + 2], tonumber(args[job + 1])))
      end
      local id, place_id = record(old, task, mode, fin, version, by, digest, key, with_raw, described, place, account, tails)
      if kept and fin == '0' and (not old[5] or old[5] == '0') then keep_on(key, task, old[4], keys[account + 3]) end
      local dropped = jobs > 0 and add_jobs(first_job, jobs, place_id) or 0
      answers[#answers + 1] = dropped == 0 and id or {result, id, version, dropped}
    else
      answers[#answers + 1] = {result, call('HGET', key, 'f') or '0', old[1] or '0', 0,
        result ~= 'duplicate' and call('HGETALL', key) or nil}
    end
    at = at + 3 + described + 8 * jobs
  end
end

-- What is common to all is written also after an error, such as a record of a wrong type: the log has the others.
local ok, failure = pcall(apply_all)
if head_id ~= head_before then call('HSET', meta, 'head', head_id) end
for open, tasks in pairs(opened) do
  local scores = {}
  for task, id in pairs(tasks) do
    scores[#scores + 1] = id
    scores[#scores + 1] = task
  end
  if #scores > 0 then call('ZADD', open, unpack(scores)) end
end
if not ok then error(failure, 0) end
return answers
