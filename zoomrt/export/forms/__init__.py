"""Forms of a bundle: one graph, 8-bit layers, several steps."""
