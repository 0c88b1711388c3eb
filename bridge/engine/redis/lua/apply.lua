-- KEYS meta log sessions owned wants accounts expiry queues, then those that ARGV names by their place
-- ARGV now session log_keep history ended_life open_life most_jobs most_job_bytes, then each state:
--   task account mode expect version by end digest document has_raw raw has_details details
--   names, name ..., places of: record history orphans open ended list tails (0 for none)
--   jobs, then each: place of its queue's keys (jobs ready order info), queue id body ordering due attempts
-- -> each: verdict offset version dropped [record]
local meta, log, sessions, owned, wants, accounts, expiry, queues =
  KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6], KEYS[7], KEYS[8]
local now, session, keep, most_history = clock(ARGV[1]), ARGV[2], ARGV[3], tonumber(ARGV[4])
local lives = alive(sessions, session, now)
local at = 8
local function take()
  at = at + 1
  return ARGV[at]
end

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
while at < #ARGV do
  local task, account, mode, expect, version, by = take(), take(), take(), take(), take(), take()
  local fin, digest, document, has_raw, raw = take(), take(), take(), take(), take()
  local has_details, details, names = take(), take(), {}
  for i = 1, tonumber(take()) do names[i] = take() end
  local key, history, orphans, open, ended, list =
    KEYS[tonumber(take())], KEYS[tonumber(take())], KEYS[tonumber(take())], KEYS[tonumber(take())],
    KEYS[tonumber(take())], KEYS[tonumber(take())]
  local tails, jobs = KEYS[tonumber(take())], tonumber(take())
  local old = call('HMGET', key, 'v', 'by', 'c', 'o', 'e', 'fs', 'x', 'l', 'xp', 'f')
  local result = verdict(old, mode, expect, version, by, fin, digest)
  if result == 'recorded' then
    local amended = mode == 'amend' and old[5] and old[5] ~= '0'
    if amended then fin = old[5] end
    local changed = has_details == '1' and details ~= old[7]
    local told = nil
    if changed then told = details elseif not old[6] then told = old[7] end
    if not changed then names = nil end

    local head = tonumber(call('HGET', meta, 'head') or '0')
    local offset = head + 1
    if now > offset then offset = now end
    local id = text(offset)
    local entry = {'k', task, 's', version .. ' ' .. fin .. (amended and ' 1 ' or ' 0 ') .. by, 'c', digest}
    local fits = #document + #raw <= ENTRY_BYTES
    if fits then
      entry[7], entry[8] = 'd', document
      if has_raw == '1' then entry[9], entry[10] = 'w', raw end
    end
    if told then entry[#entry + 1] = 'x'; entry[#entry + 1] = told end
    call('XADD', log, 'MAXLEN', '~', keep, id .. '-0', 'p', text(head), unpack(entry))
    call('HSET', meta, 'head', id)

    call('HSET', key, 'v', version, 'by', by, 'f', id, 'c', digest, 'e', fin, 'd', document)
    if has_raw == '1' then call('HSET', key, 'w', raw) elseif old[1] then call('HDEL', key, 'w') end
    if changed then call('HSET', key, 'x', details, 'l', cmsgpack.pack(names)) end
    local past = id .. ' ' .. #document .. ' ' .. has_raw .. '\n' .. document .. raw
    if call('RPUSH', history, past) > most_history then call('LTRIM', history, -most_history, -1) end

    local old_names = old[8] and cmsgpack.unpack(old[8]) or {}
    if not old[6] then
      call('HSET', key, 'fs', id)
      names = names or old_names
      names[#names + 1] = ''
      relist(list, task, id, {}, names)
    elseif changed then
      relist(list, task, old[6], old_names, names)
    end
    if not amended then
      if fin == '0' then
        call('ZADD', open, id, task)
      else
        call('ZADD', ended, id, task)
        call('ZREM', open, task)
      end
    end
    if tails then tail(meta, tails, task, now, true) end
    local over = fin == '1'
    local life = tonumber(fin == '0' and ARGV[6] or ARGV[5])
    expire_at(expiry, key, history, task, now, life, old[9], fin ~= '0' or not old[1])
    if over and not amended then end_task(key, task, account, old[4], orphans) end

    local dropped = 0
    for _ = 1, jobs do
      local place, queue, job, body = tonumber(take()), take(), take(), take()
      local ordering, due, attempts = take(), take(), take()
      local room = add_job(queues, queue, KEYS[place], KEYS[place + 1], KEYS[place + 2], KEYS[place + 3],
        job, body, ordering, due, attempts, tonumber(ARGV[7]), tonumber(ARGV[8]))
      if not room then dropped = dropped + 1 end
    end
    answers[#answers + 1] = {result, id, version, dropped}
  else
    at = at + 7 * jobs
    answers[#answers + 1] = {result, old[10] or '0', old[1] or '0', 0,
      result ~= 'duplicate' and call('HGETALL', key) or nil}
  end
end
return answers
