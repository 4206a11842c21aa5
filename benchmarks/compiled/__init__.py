"""What compilers make of the kernels: registers, spills, instructions. No GPU is needed, and nothing is run."""
