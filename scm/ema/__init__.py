"""Post-hoc exponential moving averages (EDM2, arXiv 2312.02696, sec. 3)."""
