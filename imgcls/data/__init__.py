"""Where images come from, and which split each is in."""
