"""The report of runs: one HTML file that needs no network. Its look is the viewer's, too."""
