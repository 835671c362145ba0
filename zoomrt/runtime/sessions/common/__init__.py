"""What several backends need: ONNX Runtime's options, loops over steps, errors, the smoke graph."""
