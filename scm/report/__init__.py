"""results/report.html and .md."""
