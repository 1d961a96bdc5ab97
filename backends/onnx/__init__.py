"""The ONNX backend: prints a graph as an ONNX model instead of running it."""
