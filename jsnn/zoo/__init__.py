"""Trained networks that come with the library, and a card for each that says how it was made and what it reaches.

    fitted = jsnn.zoo.load("spoken_digits")
    fitted.predict(sound).label

The command `jsnn zoo` lists them, tests one on its data, and makes an entry of a finished run.
"""

from jsnn.zoo.entries import FOLDER, Card, card, cards, load, names, read_card

__all__ = ["FOLDER", "Card", "card", "cards", "load", "names", "read_card"]
