"""Distillation in the plane: every rule on a closed-form mixture, where what it should do is known."""
