"""Machine-made masks: a promptable segmenter, taught people, marks whom nobody outlined. Offline, before training."""
