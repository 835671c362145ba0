"""FP16 that is proved safe: ranges, scale groups, emulation."""
