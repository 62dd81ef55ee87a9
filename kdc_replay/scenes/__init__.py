"""Made scenes of walking people with exact truth, and a detector that errs like a bottom-up network."""
