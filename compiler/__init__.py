"""The graph and everything that is a table keyed by op or a pure function from graph to graph."""
