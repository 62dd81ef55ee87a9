"""Data for training and evaluation: annotation files, augmentation, batches."""
