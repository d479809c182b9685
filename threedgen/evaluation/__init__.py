"""How close a result is to a ground truth."""
