-- KEYS list; ARGV now sample keep milliseconds
call('RPUSH', KEYS[1], ARGV[2])
call('LTRIM', KEYS[1], -tonumber(ARGV[3]), -1)
call('PEXPIRE', KEYS[1], ARGV[4])
