"""ShiftBench: medical image segmentation under domain shift."""
