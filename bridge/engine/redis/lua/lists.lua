-- After `common.lua`, in scripts that change what a task is listed by.
local function unlist(list, accounts, account, task, first, packed, whole)
  if not first then return end
  local place = '\0' .. string.format('%016.0f', tonumber(first)) .. '\0' .. task
  local names = packed and cmsgpack.unpack(packed) or {}
  if whole then names[#names + 1] = '' end
  for _, name in ipairs(names) do call('ZREM', list, name .. place) end
  if whole and call('EXISTS', list) == 0 then call('SREM', accounts, account) end
end
