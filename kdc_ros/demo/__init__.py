"""The demonstration: photographs played as a camera to the real node, its answers drawn and measured."""
