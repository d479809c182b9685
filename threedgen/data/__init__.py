"""Posed images: folders of NeRF-synthetic and of nerfstudio, checked, read and placed in the unit sphere."""
