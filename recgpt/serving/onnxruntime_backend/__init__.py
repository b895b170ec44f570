"""The stand-in for Triton's ONNX Runtime backend; Triton loads ``model.py`` by its path."""
