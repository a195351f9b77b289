"""Accuracy against size and time on Fashion-MNIST: KernelDNA, static networks and other people's dynamic layers."""
