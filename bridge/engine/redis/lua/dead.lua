-- Dead sessions that still own tasks. KEYS sessions owned; ARGV now -> now session ...
local now = text(clock(ARGV[1]))
local found = {now}
for _, dead in ipairs(call('ZRANGEBYSCORE', KEYS[1], '-inf', now, 'LIMIT', 0, 1000)) do
  if #call('ZRANGEBYLEX', KEYS[2], '[' .. dead .. '\0', '(' .. dead .. '\1', 'LIMIT', 0, 1) > 0 then
    found[#found + 1] = dead
  end
end
return found
