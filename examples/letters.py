"""Write letters.npz: 60 images each of six letters, 32x32 colour bytes, drawn from matplotlib's fonts.

An example of images that a pipeline trained on digits has never seen, of another size and with
colour: ``weightspace sample --data letters.npz --classes T,L,O ...`` says what it does about that.
"""

from itertools import product

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties

LETTERS, EACH, PIXELS = "TLOXUK", 60, 32
FAMILIES = ("DejaVu Sans", "DejaVu Serif", "DejaVu Sans Mono")


def draw(letter: str, font: FontProperties, rng: np.random.Generator) -> np.ndarray:
    """One letter, white on black, a little moved, turned and scaled: uint8 ``(32, 32, 3)``."""
    figure = Figure(figsize=(PIXELS / 100, PIXELS / 100), dpi=100)
    canvas = FigureCanvasAgg(figure)
    x, y, turn, size = rng.normal((0.5, 0.5, 0, 20), (0.03, 0.03, 8, 1.5))
    style = {"ha": "center", "va": "center", "rotation": turn, "fontsize": size}
    figure.text(x, y, letter, fontproperties=font, **style)
    canvas.draw()
    return 255 - np.asarray(canvas.buffer_rgba())[..., :3]


def main() -> None:
    """Write letters.npz into the current folder."""
    rng = np.random.default_rng(0)
    styles = product(FAMILIES, ("normal", "italic"), ("normal", "bold"))
    fonts = [FontProperties(family=f, style=s, weight=w) for f, s, w in styles]
    labels = np.repeat(list(LETTERS), EACH)
    images = [draw(letter, fonts[i % len(fonts)], rng) for i, letter in enumerate(labels)]
    np.savez("letters.npz", images=np.stack(images), labels=labels)


if __name__ == "__main__":
    main()
