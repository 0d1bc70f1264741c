-- packing: sequences of unsigned 64-bit little-endian integers, each below 2^53.
--
-- Servers bring the `struct` library. Where it is missing (some emulators of Redis) these two functions do the
-- same in plain Lua: the bytes are identical, so state written by one can be read by the other.
-- rawget, because servers refuse to look up a global that does not exist.
local struct = rawget(_G, 'struct') or {
  pack = function(format, ...)
    local bytes = {}
    for i = 1, select('#', ...) do
      local n = select(i, ...)
      for _ = 1, 8 do
        bytes[#bytes + 1] = string.char(n % 256)
        n = math.floor(n / 256)
      end
    end
    return table.concat(bytes)
  end,

  unpack = function(format, packed, position)
    local numbers, at = {}, position or 1
    for _ in string.gmatch(format, 'I8') do
      local b = { string.byte(packed, at, at + 7) }
      local n = 0
      for i = 8, 1, -1 do n = n * 256 + b[i] end
      numbers[#numbers + 1] = n
      at = at + 8
    end
    return unpack(numbers)
  end,
}
