"""How the weights that ship with zoomrt were made: data, training, evaluation. Not part of the installed package."""
