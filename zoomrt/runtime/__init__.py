"""The runtime: a bundle and a frame in, pixels out. Plan, execution and blend are three files; no torch, no onnx."""
