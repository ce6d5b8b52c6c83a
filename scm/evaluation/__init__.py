"""How good generated images are: Frechet distance, agreement with the asked class, and pictures to look at."""
