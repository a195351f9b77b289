"""The package's main job in small: the same residual network trained on real images with and without shared kernels.

`python -m kerneldna_ops.demo` needs the extra `demo` (scikit-learn, matplotlib, tqdm).
"""
