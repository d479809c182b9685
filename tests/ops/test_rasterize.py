"""Rasterization: ownership of edges, nearest face, perspective, hostile input, agreement of the backends."""

import math

import pytest
import torch

from threedgen import ops
from threedgen.ops.rasterize import rasterize, rasterize_reference
