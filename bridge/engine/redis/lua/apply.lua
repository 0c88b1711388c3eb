-- KEYS meta log sessions owned wants accounts expiry queues, then those that ARGV names by their place
-- ARGV now session log_keep history ended_life open_life most_jobs most_job_bytes, then each state:
--   task account mode expect version by end digest document has_raw raw has_details details,
--   places of record history orphans open ended list tails (0 for none), how many names, how many jobs,
--   name ..., then each job: place of its queue's keys (jobs ready order info), queue id body ordering due attempts
-- -> each: verdict offset version dropped [record]
local meta, log, sessions, owned, wants, accounts, expiry, queues =
  KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6], KEYS[7], KEYS[8]
local now, session, keep, most_history = clock(ARGV[1]), ARGV[2], ARGV[3], tonumber(ARGV[4])
local lives = alive(sessions, session, now)
local head = tonumber(call('HGET', meta, 'head') or '0')
local args, keys, at = ARGV, KEYS, 8

local function verdict(old, mode, expect, version, by, fin, digest)
  local recorded = tonumber(old[1] or '0')
  if recorded > 0 and ((old[1] == version and old[2] == by) or old[3] == digest) then return 'duplicate' end
  if not lives or (mode == 'owner' and old[4] ~= session) then return 'fenced' end
  local over = old[5] and old[5] ~= '0' and mode ~= 'amend'
  if over and not (old[5] == '2' and fin == '1') then return 'final' end
  if recorded > 0 and old[1] ~= expect then return 'stale' end
  return 'recorded'
end

-- The task is in the lists of its upstream from its first state on, by its names as they are now.
local function relist(list, task, first, old_names, names)
  local place = '\0' .. string.format('%016.0f', tonumber(first)) .. '\0' .. task
  for _, name in ipairs(old_names) do call('ZREM', list, name .. place) end
  for _, name in ipairs(names) do call('ZADD', list, 0, name .. place) end
end

local function end_task(key, task, account, owner, orphans)
  local gone = {'k'}
  for _, field in ipairs(call('HKEYS', key)) do
    if string.sub(field, 1, 2) == 'n:' then gone[#gone + 1] = field end
  end
  call('HDEL', key, unpack(gone))
  call('HSET', key, 'o', '')
  if owner and owner ~= '' then call('ZREM', owned, owner .. '\0' .. task) end
  call('ZREM', wants, task)
  unorphan(orphans, accounts, task, account)
end

local answers = {}
while at < #args do
  local task, account, mode, fin = args[at + 1], args[at + 2], args[at + 3], args[at + 7]
  local version, by, digest, document = args[at + 5], args[at + 6], args[at + 8], args[at + 9]
  local has_raw, raw, key = args[at + 10] == '1', args[at + 11], keys[tonumber(args[at + 14])]
  local names, jobs = tonumber(args[at + 21]), tonumber(args[at + 22])
  local old = call('HMGET', key, 'v', 'by', 'c', 'o', 'e', 'fs', 'x', 'l', 'xp', 'f')
  local result = verdict(old, mode, args[at + 4], version, by, fin, digest)
  if result == 'recorded' then
    local amended = mode == 'amend' and old[5] and old[5] ~= '0'
    if amended then fin = old[5] end
    local changed, details = false, args[at + 13]
    if args[at + 12] == '1' and details ~= old[7] then changed = true end

    local offset = head + 1
    if now > offset then offset = now end
    local id = text(offset)
    local entry = {'k', task, 's', version .. ' ' .. fin .. (amended and ' 1 ' or ' 0 ') .. by, 'c', digest}
    local fits = #document + #raw <= ENTRY_BYTES
    if fits then
      entry[7], entry[8] = 'd', document
      if has_raw then entry[9], entry[10] = 'w', raw end
    end
    local shown = changed and details or not old[6] and old[7]
    if shown then
      table.insert(entry, 'x')
      table.insert(entry, shown)
    end
    call('XADD', log, 'MAXLEN', '~', keep, id .. '-0', 'p', text(head), unpack(entry))
    head = offset
    call('HSET', meta, 'head', id)

    if has_raw then
      call('HSET', key, 'v', version, 'by', by, 'f', id, 'c', digest, 'e', fin, 'd', document, 'w', raw)
    else
      call('HSET', key, 'v', version, 'by', by, 'f', id, 'c', digest, 'e', fin, 'd', document)
      if old[1] then call('HDEL', key, 'w') end
    end
    local history = keys[tonumber(args[at + 15])]
    -- thirty large ones of each task would fill the engine: the record has the newest
    local past = id .. ' ' .. #document .. (has_raw and fits and ' 1\n' or ' 0\n') .. document .. (fits and raw or '')
    if call('RPUSH', history, past) > most_history then call('LTRIM', history, -most_history, -1) end

    if changed or not old[6] then
      local list, old_names = keys[tonumber(args[at + 19])], old[8] and cmsgpack.unpack(old[8]) or {}
      local new_names = changed and {unpack(args, at + 23, at + 22 + names)} or old_names
      if changed then call('HSET', key, 'x', details, 'l', cmsgpack.pack(new_names)) end
      if not old[6] then
        call('HSET', key, 'fs', id)
        new_names[#new_names + 1] = ''
        relist(list, task, id, {}, new_names)
      else
        relist(list, task, old[6], old_names, new_names)
      end
    end
    if not amended then
      local open = keys[tonumber(args[at + 17])]
      if fin == '0' then
        call('ZADD', open, id, task)
      else
        call('ZADD', keys[tonumber(args[at + 18])], id, task)
        call('ZREM', open, task)
      end
    end
    local tails = keys[tonumber(args[at + 20])]
    if tails then tail(meta, tails, task, now, true) end
    local life = tonumber(args[fin == '0' and 6 or 5])
    expire_at(expiry, key, history, task, now, life, old[9], fin ~= '0' or not old[1])
    if fin == '1' and not amended then end_task(key, task, account, old[4], keys[tonumber(args[at + 16])]) end

    local dropped, job = 0, at + 22 + names
    for _ = 1, jobs do
      local place = tonumber(args[job + 1])
      local room = add_job(queues, args[job + 2], keys[place], keys[place + 1], keys[place + 2], keys[place + 3],
        args[job + 3], args[job + 4], args[job + 5], args[job + 6], args[job + 7],
        tonumber(args[7]), tonumber(args[8]))
      if not room then dropped = dropped + 1 end
      job = job + 7
    end
    answers[#answers + 1] = {result, id, version, dropped}
  else
    answers[#answers + 1] = {result, old[10] or '0', old[1] or '0', 0,
      result ~= 'duplicate' and call('HGETALL', key) or nil}
  end
  at = at + 22 + names + 7 * jobs
end
return answers
