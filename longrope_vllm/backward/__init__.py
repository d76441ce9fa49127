"""A pass forward and back over a long sequence, in little more memory than a pass forward takes."""
