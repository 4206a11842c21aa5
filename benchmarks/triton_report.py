"""What the compiler makes of the Triton kernels, target by target: `python -m benchmarks.triton_report sm_90`.

Compiled ahead of time: no GPU is needed, and nothing is run. Columns: registers of a thread, bytes spilled to the stack
(on AMD spilled registers), instructions that use local memory, shared memory, instructions, matrix instructions.
"""

from multimix_kernels.backends.triton.aot import main

if __name__ == "__main__":
    main()
