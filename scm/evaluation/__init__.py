"""How good generated images are: Frechet distance, precision, recall, accuracy, and pictures to look at."""
