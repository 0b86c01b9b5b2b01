"""calf: credible comparisons of segmentation losses on imbalanced medical images."""

__version__ = "0.1.0"
