"""Exports: a student in forms that need no scm to draw: ONNX with a page for browsers, torch.export, diffusers."""
