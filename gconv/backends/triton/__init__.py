"""The portable GPU engine: Triton kernels, and what launches them. gconv/backends/triton/backend.py is the backend."""
