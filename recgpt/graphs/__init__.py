"""The exported graphs, their writers and the parity check (needs torch and onnx)."""
