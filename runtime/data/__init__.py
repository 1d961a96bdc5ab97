"""Data sources, splits and batches, with the data sets that come with Weft."""
