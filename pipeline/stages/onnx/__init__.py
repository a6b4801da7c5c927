"""Stage onnx: the network with its heads as one ONNX file."""
