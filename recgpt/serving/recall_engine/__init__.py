"""The model ``recall_engine`` for Triton's Python backend; Triton loads ``model.py`` from a version's folder."""
