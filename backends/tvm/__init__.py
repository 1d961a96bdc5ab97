"""The TVM backend: a plan as one native function, its kernels built as tensor IR."""
