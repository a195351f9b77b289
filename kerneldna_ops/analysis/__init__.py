"""What the layers of a network have in common: linear CKA, heat maps of it, and groups that could share."""

from .groups import suggest_groups
from .heatmaps import plot_heatmaps
from .similarity import CKA, Comparison, cka, compare

__all__ = ["CKA", "Comparison", "cka", "compare", "plot_heatmaps", "suggest_groups"]
