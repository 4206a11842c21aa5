"""Matrix products, and what prepares their operands. Imports from host and weights."""
