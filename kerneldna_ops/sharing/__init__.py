"""Any convolutional network with fewer kernels: its layers become parents and children, and plain again for export."""

from .grouping import propose_groups
from .materialization import materialize
from .plain import ModulatedConv2d
from .report import Layer, Report
from .share import share_kernels
from .sharing import Sharing

__all__ = ["Layer", "ModulatedConv2d", "Report", "Sharing", "materialize", "propose_groups", "share_kernels"]
