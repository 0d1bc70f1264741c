"""Frameworks: one file each over one part without I/O."""
