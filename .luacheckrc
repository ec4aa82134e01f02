-- The functions that run in Redis or Valkey: Lua 5.1, without the libraries that the server does not offer.
std = {
  read_globals = {
    redis = {fields = {"call", "pcall", "error_reply"}},
    math = {fields = {"floor", "max", "min"}},
    string = {fields = {"byte", "find", "format", "gsub", "match", "sub"}},
    "ipairs", "tonumber", "tostring", "type", "unpack",
    -- of shared.lua and repeats.lua, which come before the other files of the library
    "add", "parts", "raise", "same",
  },
}
unused_args = false  -- the server passes keys and arguments to all of them
