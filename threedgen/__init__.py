"""3D assets from text: a 3D representation optimized against a frozen diffusion model, on CUDA and on plain CPU."""

__version__ = "0.1.0"
