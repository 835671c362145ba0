"""Whether a graph does what its network does."""
