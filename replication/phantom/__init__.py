"""Generated radiographs with reports and exact ground truth, in the on-disk formats of the real data sets."""
