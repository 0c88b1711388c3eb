-- KEYS document ...; ARGV now -> each: version value
local now, answers = clock(ARGV[1]), {}
for i, key in ipairs(KEYS) do
  local old = call('HMGET', key, 'v', 'd', 'till')
  if old[1] and tonumber(old[3]) > now then answers[i] = {old[1], old[2]} else answers[i] = {'0', false} end
end
return answers
