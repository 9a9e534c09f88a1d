"""Which bundle answers: opened beside the old one, verified, rehearsed, switched without a failed request, taken back if it was wrong."""
import collections, fcntl, json, logging, os, threading
from functools import lru_cache
from pathlib import Path

import numpy as np
from flask import current_app, g
from PIL import Image

from recsys_lib.bundle import Recommender, Watch
from recsys_lib.core import InputError, read_json

from .batching import Batching

log = logging.getLogger('lookbook.bundles')
DESCRIBED = 10_000  # articles whose names are kept at hand
REHEARSED = 50  # requests of customers that a new bundle has to answer first


class Bundles:
    "The recommender that answers, the one before it, and what was refused. A thread follows the link."
    def __init__(self,
        address: str,  # folder of a bundle version, or a link to one
        state: Path,  # folder of what workers tell each other
        watch=lambda sources: Watch(),  # makes the `recsys_lib.bundle.Watch` of a recommender
        told=lambda version, before: None,  # is told which version answers, and which did before
    ):
        if not address: raise InputError('LOOKBOOK_BUNDLE is not set: expected the folder of a bundle, or a link to it')
        self.address, self.state, self.watch, self.told = Path(address), Path(state), watch, told
        self.lock, self.refused, self.previous = threading.Lock(), None, None
        self.asked = collections.deque([''], maxlen=REHEARSED)  # customers, '' for one who is unknown
        folder = self.address.resolve()
        self.recommender, self.switched, self.tried = None, 0, self.mark(folder)
        try: self.recommender = self.opened(folder)
        except InputError as e:
            # A worker that is started anew while the link is on a bad bundle answers from the one that its siblings answer from.
            good = self.served()
            if not good or good == folder: raise
            self.recommender = self.opened(good); self.refuse(folder, e)
        self.following = self.recommender.folder if self.refused is None else folder

    # -- opening

    def opened(self, folder: Path) -> Recommender:
        "A verified bundle, warm and rehearsed. Raises `InputError`, whatever is wrong with it: what is in a bundle came from elsewhere."
        try: return self.rehearsed(folder)
        except InputError: raise
        except Exception as e: raise InputError(f'{folder}: {e}') from e

    def rehearsed(self, folder: Path) -> Recommender:
        with open(self.state / 'verified.lock', 'w') as held:
            fcntl.flock(held, fcntl.LOCK_EX)  # one worker verifies, the others are told
            marks, mark = self.verified(), self.mark(folder)
            recommender = Recommender(folder, verify=mark is None or marks.get(str(folder)) != mark)
            write_whole(self.state / 'verified.json', json.dumps({**marks, str(folder): self.mark(folder)}))
        recommender.describe = lru_cache(DESCRIBED)(recommender.describe)
        self.rehearse(recommender)
        recommender.watch = self.watch(recommender.retriever.sources); recommender.recommend = Batching(recommender).recommend
        return recommender

    def verified(self) -> dict:
        "What was verified: folder -> mark."
        try: return read_json(self.state / 'verified.json')
        except (InputError, OSError): return {}

    def mark(self, folder: Path):
        "Stays the same as long as no file of a bundle is written; None if there is no bundle."
        try: return [[p.name, p.stat().st_mtime_ns, p.stat().st_size, p.stat().st_ino] for p in sorted(folder.iterdir())] if (folder / 'manifest.json').exists() else None
        except OSError: return None

    def rehearse(self, new: Recommender):
        "What was asked lately, asked of a bundle that is to answer. Raises `InputError`; the first answers are slow, and these are not a visitor's."
        k = min(12, new.settings.candidates); ids, scores = new.recommend(new.customers(list(self.asked)), k)
        if not (ids[:, 0] >= 0).all() or not np.isfinite(scores[ids >= 0]).all() or (ids >= len(new.article_ids)).any():
            raise InputError(f'{new.folder}: of {len(self.asked)} recorded requests one has no answer')
        new.similar_items([0], k)
        if new.can_search: new.search(['dress'], 1)
        if new.can_search_images: new.search_image([Image.new('RGB', (8, 8))], 1)
        if new.can_complement: new.complete_the_outfit([[0]], 1)
        for what in ('can_search', 'can_search_images', 'can_complement'):
            if self.recommender is not None and getattr(self.recommender, what) and not getattr(new, what):
                raise InputError(f"{new.folder}: cannot {what.removeprefix('can_').replace('_', ' ')}, and the bundle that answers now can")

    # -- switching

    def switch(self, folder: Path) -> Recommender:
        "Answer from another bundle from now on. Raises `InputError`, and answers as before."
        with self.lock:
            if folder == self.recommender.folder: self.refused = None; return self.recommender
            try: new = self.previous if self.previous and self.previous.folder == folder else self.opened(folder)
            except InputError as e: self.refuse(folder, e); raise
            old = self.previous; self.previous, self.recommender, self.refused = self.recommender, new, None
            if old is not None and old is not new:
                for own in ('describe', 'recommend'): vars(old).pop(own, None)  # they lead back to it: without them it goes with its last request, and not when the collector comes by, which to the first bundle it never does
            self.switched += 1; self.note()
            log.info('bundle switched', extra=dict(bundle=new.version, before=self.previous.version))
            return new

    def refuse(self, folder: Path, why: Exception):
        self.refused = dict(bundle=folder.name, why=str(why))
        log.error('bundle refused', extra=self.refused)

    def note(self):
        "For workers that start later, for whoever goes back by asking another worker, and for the metrics."
        self.told(self.recommender.version, self.previous and self.previous.version)
        write_whole(self.state / 'serving', str(self.recommender.folder))
        if self.previous: write_whole(self.state / 'before', str(self.previous.folder))

    def served(self, when='serving') -> 'Path | None':
        "The folder that the service answers from (`serving`), or did last (`before`)."
        try: return Path((self.state / when).read_text())
        except OSError: return None

    def follow(self, seconds: float):
        "Look at the link from time to time, for ever."
        self.note()
        def look():
            stop = threading.Event()
            while not stop.wait(seconds):
                folder = self.address.resolve()
                if folder == self.following and (folder == self.recommender.folder or self.mark(folder) == self.tried): continue  # one that was refused may have been mended
                self.following, self.tried = folder, self.mark(folder)
                try: self.switch(folder)
                except InputError: pass  # is logged, and told by /healthz
                except OSError: log.exception('bundle switched, but the other workers could not be told')
        threading.Thread(target=look, name='bundle', daemon=True).start()

    def versions(self) -> list:
        "The names of the bundles that lie beside the one that answers, the newest last."
        beside = self.address.parent if self.address.is_symlink() else self.recommender.folder.parent
        return sorted((p.name for p in beside.iterdir() if not p.name.startswith('.') and (p / 'manifest.json').exists() and not p.is_symlink()), key=lambda n: (beside / n / 'manifest.json').stat().st_mtime_ns)

    def point(self, version: str) -> Recommender:
        "Switch to a version that lies beside, and move the link, which the other workers follow. Raises `InputError`."
        if not self.address.is_symlink(): raise InputError(f'{self.address}: not a link, so it cannot be moved to another bundle')
        if version not in self.versions(): raise InputError(f"version {version!r}: expected one of {', '.join(self.versions())}")
        folder = (self.address.parent / version).resolve(); new = self.switch(folder)
        link = self.address.with_name(f'.{self.address.name}-{os.getpid()}'); link.unlink(missing_ok=True)
        try: link.symlink_to(version if folder.parent == self.address.parent.resolve() else folder); link.rename(self.address); self.following = folder
        except OSError as e: raise InputError(f'{self.address}: cannot be moved ({e.strerror}); this worker answers from {version}, the others as before') from None
        return new


def write_whole(path: Path, text: str):
    "Write a small file, all of it or nothing."
    partial = path.with_name(f'.{path.name}-{os.getpid()}-{threading.get_ident()}'); partial.write_text(text); partial.rename(path)


def recommender() -> Recommender:
    "What this request is answered from, from its beginning to its end."
    if 'recommender' not in g: g.recommender = current_app.extensions['bundles'].recommender
    return g.recommender
