"""Nodes that translate kdc's messages into other packages'; each starts only where that package is installed."""
