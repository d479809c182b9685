"""Frozen diffusion models behind one contract: adapters over model folders, closed-form distributions, prompts."""
