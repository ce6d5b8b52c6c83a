"""Other people's pickles, read as data: nothing in them is imported or called."""
