"""Fused GPU kernels in Triton, each beside a plain torch reference, and their ahead-of-time compilation.

One file per kernel: the kernel, its reference, a launch function that takes and gives torch tensors, the configurations
that are compiled ahead of time, and `cost`, the bytes and operations that no implementation can do without. The runtime
imports nothing of this: it loads what was compiled. Needs the extra `kernels` (torch and Triton, on Linux).
"""
