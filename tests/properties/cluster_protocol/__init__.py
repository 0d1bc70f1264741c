"""A model of the protocol by which administrators change keys and plans where nothing spans two slots.

On a cluster each slot owner runs scripts of its own slot atomically. C is the catalogue's slot (plans, version,
members, list of keys, plan sets, intents), K a key's (record, hash with `r`), D a digest's (digest -> id:token). An
operation is a sequence of requests, each at one slot; who pauses after any of them may go on later, or never.

state           fields in slots, and the one kind of request: guards, then writes, atomically, at one slot
operations      the table: create, join, leave, move, disable, rotate, delete, put and delete plan, import row, repair
gateway         a check: D, then record and `r`, then the script at K, with a cached record and an old snapshot
invariants      what must hold, a function and a sentence each
search          all interleavings, breadth first; from each state of the slots a repair, then every operation, alone
configurations  what is explored: first states, and the pairs of operations of two administrators
bugs            rules broken, mistakes of simpler protocols, guards left out: each must be found

A crash is a pause without end, so that no step stands for it: in every state everybody else goes on. Who loses against
others too often (`max_attempts`) gives up, which is one more way to crash.

There is no time: a digest is open or ended, and stays so. Not modelled: the expiry of keys, graces, drafts and
tombstones; epochs, and a catalogue or records that a server lost; lost and doubled replies; batches; slots that
migrate; several peppers; `past` and days; what a check charges. These are for tests on real nodes.

`PYTHONPATH=tests python -m properties.cluster_protocol` explores all there is and prints how much that was;
`--bugs` prints each bug with the shortest trace to what it breaks.
"""
