"""One run, its choices and its folds."""
