"""One check against compiled limits: compile, prepare, pack, decode. No I/O. Imports registry and the ground floor."""
