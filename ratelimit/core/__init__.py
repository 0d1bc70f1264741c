"""The pure part: no module in here knows Redis' client, sockets or files (the Lua sources excepted)."""
