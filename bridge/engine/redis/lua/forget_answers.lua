-- KEYS operations that are done: they are too many; ARGV now
for _, key in ipairs(KEYS) do
  if call('HGET', key, 'done') == '1' then call('UNLINK', key) end
end
return 1
