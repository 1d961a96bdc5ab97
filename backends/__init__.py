"""The ways out of the graph: each backend says which ops it knows and compiles a planned graph."""
