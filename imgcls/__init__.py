"""imgcls: from a folder of images per class to a classifier its owner can trust and ship."""

__version__ = "0.1.0"
