"""Everything worth knowing from one short visit to a machine with a GPU; on any other machine, a rehearsal of it."""
