"""`make bench-clip`: images and texts a second by torch eager, the ONNX towers and their 8-bit variants, on one thread and on two.

All of it is measured in turns within one run, in one process for each number of threads, so that a busy machine slows all alike. The median of the rounds is
what counts; inputs are ready in memory (pixels of the model's size, texts as strings), tokenizing is part of the texts' time.
"""
import argparse, json, statistics, subprocess, sys, tempfile, time
from pathlib import Path

HERE = Path(__file__).resolve().parent


def ways(folder, threads):
    "What is measured: name -> (of images, of texts)."
    import numpy as np, torch
    from recsys_lib.clip import open_model
    from recsys_lib.towers import Towers
    torch.set_num_threads(threads)
    model = open_model(str(folder / 'model'))
    plain, small = (Towers(folder / 'towers', threads, quantised) for quantised in (False, True))
    def eager_image(batch):
        with torch.no_grad(): return model.image(model.pixels(batch)).numpy()
    def eager_text(texts):
        with torch.no_grad(): return model.text(texts, 1).numpy()
    size = model.preprocess['size']; size = (size, size) if isinstance(size, int) else tuple(size)
    images = np.random.default_rng(0).integers(0, 256, (256, *size, 3), np.uint8)
    return images, {'torch eager': (eager_image, eager_text), 'ONNX': (plain.run_pixels, plain.text), 'ONNX, 8 bit': (small.run_pixels, small.text)}


def rate(function, things, batch):
    "Things a second: all of them once, in batches."
    start = time.perf_counter()
    for i in range(0, len(things), batch): function(things[i:i + batch])
    return len(things) / (time.perf_counter() - start)


def measure(folder, threads, repeats):
    "Rows of the table, for one number of threads."
    images, how = ways(folder, threads)
    texts = (json.loads((folder / 'bench_texts.json').read_text()) * 256)[:256]
    jobs = {(name, kind, batch): (function, things, batch) for name, both in how.items()
            for kind, function, things in zip(('images', 'texts'), both, (images, texts)) for batch in (1, 64)}
    for function, things, batch in jobs.values(): function(things[:batch])
    found = {job: [] for job in jobs}
    for _ in range(repeats):
        for job, (function, things, batch) in jobs.items(): found[job].append(rate(function, things[:64] if batch == 1 else things, batch))
    return [dict(way=w, kind=k, batch=b, threads=threads, rate=statistics.median(r)) for (w, k, b), r in found.items()]


def tiny(folder):
    "A run to measure where none is given: lookbook-small as it is before training, which is as fast, and the tiny twin's texts."
    from recsys_lib.clip import article_fields, compose, export_towers, image_paths, open_model, pixel_cache, save_model
    from recsys_lib.core import Run
    from recsys_lib.data import open_dataset
    dataset, model = open_dataset(Run('')), open_model()
    save_model(model, folder / 'model'); export_towers(model, folder / 'towers', pixel_cache(image_paths(dataset), model.preprocess, folder / 'pixels')[1])
    (folder / 'bench_texts.json').write_text(json.dumps([compose(f) for f in article_fields(dataset)]))


def main(run, repeats):
    with tempfile.TemporaryDirectory() as tmp:
        folder = Path(tmp)
        if run is None: tiny(folder)
        else:
            from recsys_lib.clip import article_fields, compose
            from recsys_lib.data import Dataset
            for name in ('model', 'towers'): (folder / name).symlink_to((run / 'clip' / name).absolute())
            (folder / 'bench_texts.json').write_text(json.dumps([compose(f) for f in article_fields(Dataset(run / 'data'))[:256]]))
        rows = []
        for threads in (1, 2):
            done = subprocess.run([sys.executable, __file__, '--measure', str(folder), str(threads), str(repeats)], capture_output=True, text=True)
            if done.returncode: sys.exit(f'{threads} threads failed:\n{done.stderr}')
            rows += json.loads(done.stdout.splitlines()[-1])
    print(f"{'a second':<14}" + ''.join(f'{f"{k}, {t} thr., batch {b}":>26}' for k in ('images', 'texts') for t in (1, 2) for b in (1, 64)))
    for way in dict.fromkeys(r['way'] for r in rows):
        cells = {(r['kind'], r['threads'], r['batch']): r['rate'] for r in rows if r['way'] == way}
        print(f'{way:<14}' + ''.join(f'{cells[k, t, b]:>26,.0f}' for k in ('images', 'texts') for t in (1, 2) for b in (1, 64)))


if __name__ == '__main__':
    if sys.argv[1:2] == ['--measure']: print(json.dumps(measure(Path(sys.argv[2]), *map(int, sys.argv[3:5]))))
    else:
        parser = argparse.ArgumentParser(description=__doc__)
        parser.add_argument('run', nargs='?', type=Path, help="a run's folder with clip/; left out: lookbook-small before training")
        parser.add_argument('--repeats', type=int, default=5)
        given = parser.parse_args()
        missing = [name for name in ('clip/model', 'clip/towers', 'data') if given.run and not (given.run / name).exists()]
        if missing: parser.error(f"{given.run / missing[0]} is missing; expected the folder of a run, such as reports/runs/demo-twin: `make run` makes it")
        main(given.run, given.repeats)
