"""What is in stock: a list of article ids in a file that the shop keeps up to date."""
from pathlib import Path

import numpy as np

from recsys_lib.bundle import Recommender
from recsys_lib.core import InputError


class Stock:
    "The articles that a file lists, one id a line; read again when the file has changed. Ids that the catalogue does not have are passed over."
    def __init__(self,
        path: str,  # '' for none
        recommender: Recommender,
    ):
        self.path, self.recommender, self.read = path and Path(path), recommender, (None, None)
        if path: self.mask()

    def __bool__(self): return bool(self.path)

    def mask(self) -> np.ndarray:  # (articles,) bool
        "Which articles are in stock. Raises `InputError` if the file cannot be read; once read, the last state stays while it is away."
        try:
            about = self.path.stat(); state = about.st_mtime_ns, about.st_size, about.st_ino
            if state != self.read[0]:
                listed = set(self.path.read_text().split()); ids = self.recommender.article_ids
                self.read = state, np.array([ids[i] in listed for i in range(len(ids))], bool)
        except (OSError, ValueError) as e:
            if self.read[1] is None: raise InputError(f"LOOKBOOK_STOCK: {self.path}: expected a text file with an article id a line ({getattr(e, 'strerror', None) or e})") from None
        return self.read[1]
