-- compare_versions: where the version token of a key is not the caller's, return if the caller has to look again.
--
-- Reads   request, now, is_identity, nothing_newer
-- Reads   stored_token    that of the key; nil if there is none
-- Leaves  stored_token    the caller's, of an identity that has none
-- Leaves  new_token       the caller's, which is to be written
-- @inline inline/retry_statuses
-- A version token: epoch (8 bytes) and version (10 digits) of the catalogue, stamp of the key's record (8 bytes).
local version_token = string.sub(request, VERSION_TOKEN_AT, HEAD_SIZE)
if not stored_token and is_identity then stored_token = version_token end -- an identity that is new
if not stored_token or string.sub(stored_token, 19) ~= string.sub(version_token, 19) then
  return { KEY_CHANGED, now }
end
local is_newer = string.sub(stored_token, 9, 18) > string.sub(version_token, 9, 18)
if not nothing_newer and (is_newer or string.sub(stored_token, 1, 8) ~= string.sub(version_token, 1, 8)) then
  -- Or the catalogue was recreated, or Redis lost a change: a caller that got this reply, and then loaded a
  -- catalogue that is no newer, says so by flag 2.
  return { CATALOG_BEHIND, now }
end
new_token = version_token
