-- KEYS meta log sessions owned wants accounts record orphans about
-- ARGV now session task account called_back log_keep apart wanted_for found -> what became of it
local now, task, account, key = clock(ARGV[1]), ARGV[3], ARGV[4], KEYS[7]
if not alive(KEYS[3], ARGV[2], now) then return 'dead' end
local fields = call('HMGET', key, 'o', 'e', 'v', 'k', 'called')
local owner = fields[1]
local owner_lives = alive(KEYS[3], owner, now)
local idle = not fields[4] and not owner_lives and not wanted(KEYS[5], task, now)
if ARGV[9] ~= '1' and not fields[3] and idle and not call('ZSCORE', KEYS[8], task) then return 'unknown' end
if fields[2] == '1' then return 'over' end
if fields[5] and now - tonumber(fields[5]) < tonumber(ARGV[7]) then return 'soon' end
call('HSET', key, 'called', text(now))
if owner_lives then
  append(KEYS[1], KEYS[2], ARGV[6], now, 'l', task, 's', owner, 'b', ARGV[5])
  return 'told'
end
-- Wanted for a while: else whoever claims it would drop it.
call('ZADD', KEYS[5], 'GT', text(now + tonumber(ARGV[8])), task)
polled_by(key, owner, KEYS[3], KEYS[9])
orphan(key, task, account, text(now), owner, KEYS[4], KEYS[8], KEYS[6])
return 'orphaned'
