"""Use of a finished run: prediction, evaluation with a report, ONNX export, demo page."""
