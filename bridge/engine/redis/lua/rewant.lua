-- KEYS wants; ARGV now linger task ...
local till, pairs = text(clock(ARGV[1]) + tonumber(ARGV[2])), {}
for i = 3, #ARGV do
  pairs[#pairs + 1] = till
  pairs[#pairs + 1] = ARGV[i]
end
call('ZADD', KEYS[1], 'GT', unpack(pairs))
