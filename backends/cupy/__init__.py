"""The CuPy backend: CUDA kernels printed from loops, cuBLAS, and the step as one CUDA graph."""
