"""The reference backend: prints a planned graph as straight-line Python over NumPy."""
