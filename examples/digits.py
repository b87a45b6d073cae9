"""Write scikit-learn's digits as an .npz, where an example needs images: ``digits.py [FILE]``."""

import sys

import numpy as np
from sklearn.datasets import load_digits

digits = load_digits()
file = sys.argv[1] if len(sys.argv) > 1 else "my.npz"
np.savez(file, images=(digits.images / 16).astype("float32"), labels=digits.target)
