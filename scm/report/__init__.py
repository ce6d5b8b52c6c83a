"""The report of a run: results/report.html and results/report.md."""
