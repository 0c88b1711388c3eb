-- Members that a version before wrote into the one list of an upstream go into the list of their account.
-- KEYS upstream_list listed, then lists of accounts; ARGV now, then each: member, place of the list, account
local inbox, listed = KEYS[1], KEYS[2]
for i = 2, #ARGV, 3 do
  local member, list = ARGV[i], KEYS[tonumber(ARGV[i + 1])]
  if call('ZSCORE', inbox, member) then
    call('ZADD', list, 0, member)
    call('SADD', listed, ARGV[i + 2])
    call('ZREM', inbox, member)
  end
end
