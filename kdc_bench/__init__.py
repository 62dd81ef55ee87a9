"""Measurements: stages of the pipeline, host decoding, peers side by side, start-up and memory."""
