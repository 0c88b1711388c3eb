-- The tasks of a live session, in order. KEYS sessions owned; ARGV now session after limit -> task ...
local now, session = clock(ARGV[1]), ARGV[2]
if not alive(KEYS[1], session, now) then return {} end
local found = call('ZRANGEBYLEX', KEYS[2], '(' .. session .. '\0' .. ARGV[3], '(' .. session .. '\1',
  'LIMIT', 0, ARGV[4])
for i, member in ipairs(found) do found[i] = string.sub(member, #session + 2) end
return found
