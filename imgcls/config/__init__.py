"""What the user can set, and what was decided."""
