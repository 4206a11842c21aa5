"""Philox, gammas and tiles of weights, and the kernel that writes them to memory. Imports from host only."""
