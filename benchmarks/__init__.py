"""What replacing the mixing step buys on this machine: time, memory, and whether the loss is the same."""
