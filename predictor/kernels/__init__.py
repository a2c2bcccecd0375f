"""The four kernels, in the order of every array with a kernel axis."""

from predictor.kernels import hilbert, levy, markov, signature
from predictor.types import KERNEL_NAMES

KERNEL_MODULES = (hilbert.KERNEL, markov.KERNEL, levy.KERNEL, signature.KERNEL)

if tuple(kernel.name for kernel in KERNEL_MODULES) != KERNEL_NAMES:
    raise ImportError("kernel order differs from predictor.types.KERNEL_NAMES")
