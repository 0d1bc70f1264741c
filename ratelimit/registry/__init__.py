"""What Redis keeps: names, records, documents and the catalogue's snapshot. No I/O. Imports the ground floor."""
