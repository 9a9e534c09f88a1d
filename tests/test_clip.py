"""CLIP: ids and pixels as open_clip makes them, and what a kill leaves. On drawn texts and images; and on real ones where LOOKBOOK_REAL_DATA names the folder that holds them."""
import io, os, random, signal, subprocess, sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from recsys_lib.clip import article_fields, compose, image_paths, light_tokenizer, open_clip_library, open_embeddings, open_model, open_towers
from recsys_lib.core import InputError, Run
from recsys_lib.data import open_dataset
from recsys_lib.towers import open_image, preprocess, to_rgb

ROOT = Path(__file__).resolve().parents[1]
REAL = os.environ.get('LOOKBOOK_REAL_DATA')
open_clip = open_clip_library()
THEIRS = {clean: open_clip.SimpleTokenizer(context_length=77, clean=clean) for clean in ('lower', 'whitespace', 'canonicalize')}
OURS = {clean: light_tokenizer(t) for clean, t in THEIRS.items()}
needs_real = pytest.mark.skipif(not REAL, reason='LOOKBOOK_REAL_DATA is not set')


def same_ids(texts):
    for clean in OURS: np.testing.assert_array_equal(THEIRS[clean](texts).numpy(), OURS[clean](texts))


# -- ids

@settings(max_examples=300, deadline=None)
@given(st.lists(st.text(max_size=60), min_size=1, max_size=4))
@example(['<start_of_text>x<END_OF_TEXT> <end_of_text>', "'S don't &amp;lt;b&gt; \x00\x1f", 'ﬁ ² ⅔ ｶﾞ İ ẞ ſ', '\ud7ff\u2028\u200b\u00ad', 'ÃƒÂ©tÃ©'])
@example(['😀' * 90, 'a' * 3000, ' \t\n', '𝔘𝔫𝔦𝔠𝔬𝔡𝔢 裙子 ٣٤ हिन्दी'])
def test_ids_of_any_text_are_those_of_open_clip(texts): same_ids(texts)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.text('aeiou st\'-.,&;<>#0123456789ÄÖéÃ¤', max_size=200), min_size=1, max_size=4))
def test_ids_of_texts_like_a_shops(texts): same_ids(texts)


@needs_real
def test_ids_of_ten_thousand_real_descriptions():
    import pandas as pd
    texts = pd.read_csv(Path(REAL, 'hm-week/articles.csv'), usecols=['detail_desc']).detail_desc.dropna().drop_duplicates()
    texts = texts.sample(10_000, random_state=0).tolist()
    np.testing.assert_array_equal(THEIRS['lower'](texts).numpy(), OURS['lower'](texts))


# -- pixels

def variants(image, rng):
    "An image as shops also have it: other modes, odd sizes, turned."
    yield image
    for mode in ('L', 'RGBA', 'LA', 'CMYK', 'P', '1', 'YCbCr'): yield image.convert(mode)
    for _ in range(2): yield image.resize((int(rng.integers(11, 300)), int(rng.integers(11, 300))))
    for tag in (3, 6, 8):
        exif, held = Image.Exif(), io.BytesIO(); exif[0x112] = tag
        image.save(held, 'jpeg', exif=exif); yield Image.open(held)
    paletted, held = image.convert('P'), io.BytesIO(); paletted.save(held, 'png', transparency=paletted.getpixel((0, 0))); yield Image.open(held)
    clear = image.convert('RGBA'); clear.putalpha(Image.linear_gradient('L').resize(image.size)); yield clear
    yield Image.fromarray(np.asarray(image.convert('L')).astype(np.uint16) * 257)


def same_pixels(images):
    rng = np.random.default_rng(0)
    for size, way, interpolation in ((64, 'longest', 'bicubic'), (64, 'shortest', 'bicubic'), (50, 'squash', 'bilinear')):
        theirs = open_clip.image_transform(size, False, (0,) * 3, (1,) * 3, resize_mode=way, interpolation=interpolation, fill_color=255 if way == 'longest' else 0)
        for image in images:
            for variant in variants(image, rng):
                ours = preprocess([variant], size=size, resize_mode=way, interpolation=interpolation, fill_color=255 if way == 'longest' else 0)[0]
                assert np.abs(ours - theirs(to_rgb(open_image(variant))).numpy()).max() <= 1 / 255, (variant.mode, variant.size, way)


def test_pixels_of_drawn_images_are_those_of_open_clip():
    same_pixels([Image.open(p).convert('RGB') for p in image_paths(open_dataset(Run(''))) if p][:5])


@needs_real
def test_pixels_of_real_images():
    same_pixels([Image.open(p).convert('RGB') for p in sorted(Path(REAL, 'hm-week/images').glob('*/*.jpg'))[::103][:200]])


def test_opaque_images_are_what_open_clip_makes_of_the_file_itself():
    "Not only after `to_rgb`: where nothing is transparent, turned or 16 bits deep, the two see the same file."
    theirs = open_clip.image_transform(32, False, (.5,) * 3, (.25,) * 3)
    for path in [p for p in image_paths(open_dataset(Run(''))) if p][:10]:
        assert np.abs(preprocess([path], (.5,) * 3, (.25,) * 3, size=32)[0] - theirs(Image.open(path)).numpy()).max() <= 4 / 255 + 1e-6


# -- kills

SERVER = '''
import json, os, signal, sys, traceback
from pathlib import Path
import torch; torch.set_num_threads(1)
from recsys_lib import clip
from recsys_lib.data import Dataset
clip.open_model('lookbook-tiny')  # all is imported now, once, and a try begins at once

def work(data, out):
    dataset = Dataset(data); fields, paths = clip.article_fields(dataset), clip.image_paths(dataset)
    model = clip.open_model('lookbook-tiny')
    items, images = clip.pixel_cache(paths, model.preprocess, out / 'pixels')
    parts = clip.split_products(dataset.item_frame.product_code.to_numpy()[items], 8, 8)
    curve = clip.train(model, images, fields[items], parts, clip.Training(steps=40, batch=16, validate_every=5, checkpoint_every=3), out)
    clip.save_model(model, out / 'model'); (out / 'curve.json').write_text(json.dumps(curve))
    clip.embed_catalogue(model, paths, [clip.compose(f) for f in fields], out / 'shards', shard=8)[0].save(out)

class Touches:
    "How often the work has opened, moved, made or removed what lies in the data or in its own folder; at the one it is told of it kills itself."
    KINDS = {'open', 'os.rename', 'os.mkdir', 'os.remove', 'os.rmdir', 'os.truncate'}

    def __init__(self, last, *folders): self.last, self.folders, self.n = last, folders, 0

    def __call__(self, event, about):
        if event in self.KINDS and str(about[0]).startswith(self.folders):
            self.n += 1
            if self.n == self.last: os.kill(os.getpid(), signal.SIGKILL)

for line in sys.stdin:
    out, last = line.split()
    if (child := os.fork()) == 0:
        try:
            sys.addaudithook(touches := Touches(int(last), sys.argv[1], out))
            work(Path(sys.argv[1]), Path(out)); (Path(out) / 'touches').write_text(str(touches.n)); os._exit(0)
        except BaseException: traceback.print_exc(); os._exit(1)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
'''


class Tries:
    "A process that has imported what is needed, and forks one for each try."
    def __init__(self, data):
        self.server = subprocess.Popen([sys.executable, '-c', SERVER, str(data)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT)

    def __enter__(self): return self
    def __exit__(self, *_): self.server.stdin.close(); self.server.wait()

    def go(self, out, last=0):
        "Train and embed in a process of its own, killed when it touches a file for the `last`-th time (0: never); its exit code."
        out.mkdir(parents=True, exist_ok=True); print(out, last, file=self.server.stdin, flush=True)
        return int(self.server.stdout.readline())


def test_killed_at_random_ten_times_and_resumed_gives_the_same(tmp_path):
    "What a kill can spoil is on the disk, so moments are counted by touches of files and not by the clock: each is up to a quarter of those of the whole work, so the ten reach from its start to its end."
    moments, codes = random.Random(7), []
    with Tries(open_dataset(Run('')).folder) as tries:
        assert tries.go(tmp_path / 'whole') == 0; touches = int((tmp_path / 'whole/touches').read_text())
        for _ in range(10): codes.append(tries.go(tmp_path / 'parts', moments.randint(1, touches // 4)))
        assert tries.go(tmp_path / 'parts') == 0
    assert codes.count(-signal.SIGKILL) >= 8 and set(codes) <= {-signal.SIGKILL, 0}  # 0: one that came after the end of the work
    for name in ('curve.json', 'model/open_clip_model.safetensors', 'image.npy', 'text.npy', 'real.npy', 'content.npy'):
        assert (tmp_path / 'parts' / name).read_bytes() == (tmp_path / 'whole' / name).read_bytes(), name
    assert not list((tmp_path / 'parts').rglob('.*'))


# -- a scratch run

def test_a_scratch_run_has_vectors_at_once_and_a_models_after_its_towers_were_asked_for(tmp_path, monkeypatch):
    monkeypatch.setattr('recsys_lib.core.scratch_folder', lambda: str(tmp_path))  # one that no other test has used
    run = Run(''); hashed = open_embeddings(run); text = hashed.text.copy(); texts = [compose(f) for f in article_fields(open_dataset(run))]
    assert np.array_equal(hashed.image, hashed.text) and not (run.folder / 'clip/towers').exists()
    towers, vectors = open_towers(run), open_embeddings(run)
    assert vectors.text.shape == text.shape and not np.array_equal(vectors.text, text) and np.array_equal(hashed.text, text)  # what was opened stays
    np.testing.assert_allclose(towers.text(texts), vectors.text, atol=1e-4)
    paths = [p for p in image_paths(open_dataset(run)) if p]
    np.testing.assert_allclose(towers.image(paths), vectors.image[vectors.real], atol=1e-4)


# -- models by name

def test_a_model_of_open_clip_is_exported_and_answers_alike(tmp_path):
    "A ViT with CLIP's own text tower, which takes only the full width: another path of the export than our own model's."
    import torch
    from recsys_lib.clip import export_towers, save_model
    from recsys_lib.towers import Towers
    open_clip.factory._MODEL_CONFIGS['vit-check'] = dict(embed_dim=16, vision_cfg=dict(image_size=32, layers=1, width=32, head_width=16, patch_size=16),
                                                         text_cfg=dict(context_length=20, vocab_size=49408, width=32, heads=2, layers=1))
    save_model(open_model('vit-check'), tmp_path / 'model')
    model = open_model(str(tmp_path / 'model'))
    images = np.random.default_rng(0).integers(0, 256, (12, 32, 32, 3), np.uint8); texts = ['a red dress', 'x', 'jersey ' * 50]
    export_towers(model, tmp_path / 'towers', images); towers = Towers(tmp_path / 'towers')
    with torch.no_grad(): expected = model.image(model.pixels(images)).numpy(), model.text(texts).numpy()
    assert not model.trim and not towers.trim
    assert (towers.run_pixels(images) * expected[0]).sum(1).min() > .9999 and (towers.text(texts) * expected[1]).sum(1).min() > .9999


def test_a_hub_out_of_reach_is_told(monkeypatch):
    import huggingface_hub.constants
    monkeypatch.setattr(huggingface_hub.constants, 'HF_HUB_OFFLINE', True)
    with pytest.raises(InputError, match='within reach'): open_model('hf-hub:Marqo/marqo-fashionCLIP')
    with pytest.raises(InputError, match='lookbook-small'): open_model('nothing')
