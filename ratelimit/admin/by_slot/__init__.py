"""Changes of keys where they lie in slots: a script may touch keys of one slot only, so a change takes several steps.

Each step is one script at one slot: of the catalogue (plans, list and sets of keys, intents), of a key (record, hash),
or of a digest (the claim of a value). lua/PROTOCOL.md says which step writes what, and what holds between them.
"""
