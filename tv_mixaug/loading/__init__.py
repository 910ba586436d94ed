"""Collating and mixing in the workers of a DataLoader."""
