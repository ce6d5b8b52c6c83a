"""Where images come from: one file for each value of `data.source`, found by its name.

Such a file has a function `list_images(wanted, stack)`, which returns an `ImageSource` and decodes nothing.
It may have a function `refusals(data)`, which yields (key, value, problem and remedy) for what the section `data` of
params.yaml may not ask of this source; only for this function's sake does the file avoid heavy imports at its top.
"""
