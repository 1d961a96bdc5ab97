"""What `weft verify` holds a spec to: gradients, updates, passes, plans, kernels, random bits."""
