"""The same network in other number formats: half precision and 8-bit integers, as ONNX graphs.

Needs the package `onnx`, which is only imported when something is converted.
"""
