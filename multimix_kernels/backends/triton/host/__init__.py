"""Tile sizes, the device, super-blocks of rows and tuning: what runs on the host. Imports no kernel."""
