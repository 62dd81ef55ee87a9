"""Offline: the KDC network, its training, evaluation and export. The only package that imports torch."""
