-- KEYS meta log sessions budget
-- ARGV now session credential what seconds log_keep max_seconds first_pause max_pause -> paused failures
local now = clock(ARGV[1])
local old = call('HMGET', KEYS[4], 'paused', 'pause', 'fails')
local paused, pause, fails = tonumber(old[1] or '0'), tonumber(old[2] or '0'), tonumber(old[3] or '0')
local was_paused, had_failed = paused, fails
if alive(KEYS[3], ARGV[2], now) then
  local ends_probe = false
  if ARGV[4] == 'pause' then
    local wish = math.min(math.max(tonumber(ARGV[5]), 0), tonumber(ARGV[7]))
    local begins = now >= paused
    if begins then pause = math.min(math.max(pause * 2, tonumber(ARGV[8])), tonumber(ARGV[9])) end
    -- Calls that were in flight together meet the same limit: it counts once.
    if begins or wish > 0 then
      local seconds = wish > 0 and wish or pause
      paused = math.max(paused, now + math.floor(seconds * 1000000 + 0.5))
    end
  elseif ARGV[4] == 'failed' then
    fails = fails + 1
  else
    fails, ends_probe = 0, true
    -- Half, and a little less, so that it reaches zero.
    pause = math.max(pause / 2 - 0.25, 0)
    if pause == 0 and paused <= now then paused = 0 end
  end
  call('HSET', KEYS[4], 'paused', text(paused), 'pause', string.format('%.17g', pause), 'fails', fails)
  if ends_probe then call('HDEL', KEYS[4], 'prober', 'probe') end
  call('PEXPIRE', KEYS[4], 900000 + math.ceil(math.max(paused - now, 0) / 1000))
  if paused ~= was_paused or fails ~= had_failed then
    append(KEYS[1], KEYS[2], ARGV[6], now, 'b', ARGV[3], 'u', text(paused), 'f', fails)
  end
end
return {text(paused), fails}
