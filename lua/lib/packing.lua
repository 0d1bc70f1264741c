-- packing: whole numbers below 2^53 as little-endian IEEE 754 doubles, 8 bytes each: Lua's own numbers as they are.
--
-- Servers bring the `struct` library. Where it is missing (some emulators of Redis) plain Lua makes the same bytes.
local struct = struct
if not struct then
  local function pack_double(number)
    if number == 0 then return string.rep('\0', 8) end
    local mantissa, exponent = math.frexp(math.abs(number))
    -- 52 bits after the leading one, 11 bits of exponent, one of sign; bytes come out lowest first.
    local bits, top, bytes = mantissa * 2 ^ 53 - 2 ^ 52, exponent + 1022 + (number < 0 and 2048 or 0), {}
    for i = 1, 6 do
      bytes[i] = string.char(bits % 256)
      bits = math.floor(bits / 256)
    end
    top = top * 16 + bits
    bytes[7], bytes[8] = string.char(top % 256), string.char(math.floor(top / 256))
    return table.concat(bytes)
  end

  local function unpack_double(packed, at)
    local top = string.byte(packed, at + 7) * 256 + string.byte(packed, at + 6)
    local bits, exponent, sign = top % 16, math.floor(top / 16), 1
    for i = at + 5, at, -1 do bits = bits * 256 + string.byte(packed, i) end
    if exponent >= 2048 then exponent, sign = exponent - 2048, -1 end
    if exponent == 0 then return 0 end
    return sign * math.ldexp(bits + 2 ^ 52, exponent - 1075)
  end

  struct = {
    pack = function(_, ...)
      local parts = {}
      for i = 1, select('#', ...) do parts[i] = pack_double((select(i, ...))) end
      return table.concat(parts)
    end,
    unpack = function(format, packed, position)
      local numbers, at = {}, position or 1
      for _ in string.gmatch(format, 'd') do
        numbers[#numbers + 1] = unpack_double(packed, at)
        at = at + 8
      end
      return unpack(numbers)
    end,
  }
end
-- Looked up once: the fast path of a check is short enough for that to count.
local pack_doubles, unpack_doubles = struct.pack, struct.unpack
