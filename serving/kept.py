"""Answers that may be given again, in so much memory, the least recently used given up first."""
import threading

from cachetools import LRUCache

from .metrics import looked_up


class Kept:
    "Texts by key. Keys carry all that an answer depends on, so nothing has to be thrown away when something changes. Thread-safe."
    def __init__(self,
        megabytes: float,  # of texts; 0 keeps none
    ):
        self.lock, self.texts = threading.Lock(), LRUCache(megabytes * 2 ** 20, len) if megabytes else None

    def get(self, key) -> 'bytes | None':
        if self.texts is None: return None
        with self.lock: found = self.texts.get(key)
        looked_up('no' if found is None else 'yes').inc()
        return found

    def put(self, key, text: bytes):
        if self.texts is None or len(text) > self.texts.maxsize: return
        with self.lock: self.texts[key] = text
