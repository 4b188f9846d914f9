"""Triton kernels of the reading engine; imported only where a CUDA card is used."""
