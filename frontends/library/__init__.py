"""The standard library: Weft source that users can read, copy and change."""
