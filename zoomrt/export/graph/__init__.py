"""torch to ONNX: export, forms of norms and padding, facts read off a graph."""
