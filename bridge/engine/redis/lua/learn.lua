-- KEYS list; ARGV now keep milliseconds sample...
if ARGV[2] == '0' then return call('UNLINK', KEYS[1]) end
if not ARGV[4] then return end
call('RPUSH', KEYS[1], unpack(ARGV, 4))
call('LTRIM', KEYS[1], -tonumber(ARGV[2]), -1)
call('PEXPIRE', KEYS[1], ARGV[3])
