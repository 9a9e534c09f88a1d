"""What is in stock: a list of article ids in a file that the shop keeps up to date."""
from pathlib import Path

import numpy as np

from recsys_lib.bundle import Recommender
from recsys_lib.core import InputError


class Stock:
    "The articles that a file lists, one id a line; read again when the file has changed. Ids that the catalogue does not have are passed over."
    def __init__(self,
        path: str,  # '' for none
        recommender: Recommender,  # the first that asks
    ):
        self.path, self.listed, self.read = path and Path(path), None, (None, None, None)  # state of the file, version of the bundle, mask
        if path: self.mask(recommender)

    def __bool__(self): return bool(self.path)

    def state(self):
        "Changes with the file."
        try: about = self.path.stat() if self.path else None
        except OSError: about = None
        return about and (about.st_mtime_ns, about.st_size, about.st_ino)

    def mask(self, recommender: Recommender) -> np.ndarray:  # (articles,) bool
        "Which articles are in stock. Raises `InputError` if the file cannot be read; once read, the last state stays while it is away."
        try:
            if (state := self.state()) != self.read[0] or self.listed is None: self.listed, self.read = set(self.path.read_text().split()), (state, None, None)
        except (OSError, ValueError) as e:
            if self.listed is None: raise InputError(f"LOOKBOOK_STOCK: {self.path}: expected a text file with an article id a line ({getattr(e, 'strerror', None) or e})") from None
        state, version, mask = self.read
        if version != recommender.version:
            ids = recommender.article_ids; mask = np.array([ids[i] in self.listed for i in range(len(ids))], bool)
            self.read = state, recommender.version, mask
        return mask
