"""Training: data sets, recipes, the loop and its checkpoints, on one device or several, and evaluation."""
