-- KEYS records -> of each: offset of its first state, and what it is registered with
local found = {}
for i, key in ipairs(KEYS) do found[i] = call('HMGET', key, 'fs', 'x') end
return found
