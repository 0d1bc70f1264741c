"""The promises as functions: each raises AssertionError where the promise is broken.

`backend` or `server` is where to run, emptied; `clock` is an injected clock. `test_promises` runs them on every
backend; `test_seeded_bugs` shows that each fails when the code is wrong. A function that takes `server` needs a real
one, for its own clock, its pushes or its connections.
"""
