"""Dynamic convolution at the cost of a static one: one parent weight, modulated per sample, never materialised."""

from . import _C, _registrations, functional
from .backends import use_backend
