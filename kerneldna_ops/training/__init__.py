"""Training: data sets, recipes, the loop and its checkpoints, alone or on several devices (torchrun), and evaluation."""
