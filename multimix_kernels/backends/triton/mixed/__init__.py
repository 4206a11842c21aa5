"""The loss of mixed scores: on chip, in super-blocks of rows, and for many examples. Imports from all other rooms."""
