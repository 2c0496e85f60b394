"""Nearest neighbours, the auction and the loops of registration on a CUDA device, written in Triton.

The same questions as `metrics.kernels.cpu` answers, and the same answers: what a score is made of is computed in
float64. Under Triton's interpreter (`TRITON_INTERPRET=1`) everything here runs without a GPU, on CPU tensors.
"""
