"""This machine and this process."""
