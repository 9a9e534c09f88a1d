"""`make peers`: tune each peer on the training periods that judged our own ranker, then ask it what ours was asked.

The folder holds the questions that `recsys_lib.peers.export_question` wrote: a `tune-<date>/` for each period that judges, with what was bought then, and a `test-<date>/` for each test period, without. Every trial runs in a process
of its own, so that a slow one can be ended and its memory is given back. A trial leaves one line in `trials/<peer>.jsonl`; started again, what is there is not done again. The settings
of trial n depend on the lines before it and on nothing else, so a run that was interrupted draws what it would have drawn.
"""
import argparse, hashlib, json, re, subprocess, sys, time
from pathlib import Path

import numpy as np
from tqdm import tqdm

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]
import models
from recsys_lib.metrics import average_precision

GIVE_UP = 3  # trials in a row without an answer, after which a peer is left alone


def slug(name):
    "A peer's name as a file's."
    return '-'.join(re.findall('[a-z0-9]+', name.lower()))


def drawn(value, rng):
    "One value of a range."
    if isinstance(value, list): return value[rng.integers(len(value))]
    low, high, how = value
    return float(f'{np.exp(rng.uniform(np.log(low), np.log(high))) if how == "log" else rng.uniform(low, high):.4g}')


def counts(settings):
    "What of a peer's settings makes a difference: how fast the purchases that a list begins with are forgotten makes none where it begins with something else."
    return {key: value for key, value in settings.items() if key != 'first_half_life' or settings['first']}


def proposal(name, done):
    "Settings of the next trial: the usual ones, then six at random, then in turn at random and from the best so far with some redrawn; none that were tried."
    _, usual, ranges = models.PEERS[name]; n = len(done)
    if n == 0: return dict(usual)
    rng = np.random.default_rng([n, *name.encode()]); good = [t for t in done if t['map'] is not None]; tried = [counts(t['settings']) for t in done]
    for _ in range(100):  # a peer may have no others
        new = {key: drawn(value, rng) for key, value in ranges.items()}
        if n > 6 and n % 2 == 0 and good:
            keep = rng.random(len(new)) < .6; keep[rng.integers(len(new))] = False
            new = {key: max(good, key=lambda t: t['map'])['settings'][key] if k else value for k, (key, value) in zip(keep, new.items())}
        if counts(new) not in tried: break
    return new


def answer(folder, name, settings):
    "A peer's lists for a question, filled up with what sells. (customers, k) int32"
    q = models.Question.open(folder)
    return models.followed_by(models.PEERS[name][0](q, **settings), q.fill, q.k)


def late(limit): return f'ended after {limit:.0f} s'


def in_a_process(folder, name, settings, to, limit):
    "The same in a process of its own; what stopped it, or ''."
    to.parent.mkdir(parents=True, exist_ok=True); to.unlink(missing_ok=True)
    command = [sys.executable, __file__, str(folder), '--answer', name, '--settings', json.dumps(settings), '--to', str(to)]
    try: done = subprocess.run(command, timeout=limit, capture_output=True, text=True)
    except subprocess.TimeoutExpired: return late(limit)
    return '' if done.returncode == 0 and to.exists() else f"exit {done.returncode}: {(done.stderr.strip().splitlines() or [''])[-1][:300]}"


def judges(folder): return sorted(folder.glob('tune-*'))


def trials_of(folder, name, limit):
    """The lines that are there, of the questions and of the peer's settings as they are now. What failed is made again where that may help: it had less time than there is now, or it was
    no matter of time (a library that was missing)."""
    path, asked = folder / 'trials' / f'{slug(name)}.jsonl', '-'.join(map(identity, judges(folder)))
    text = path.read_text() if path.exists() else ''; whole = text[:text.rfind('\n') + 1]
    if whole != text: path.write_text(whole)  # ended in the middle of a line
    stands = lambda t: t['question'] == asked and t['settings'].keys() == models.PEERS[name][1].keys() and (t['map'] is not None or t.get('limit', 0) >= limit and t['stopped'] == late(t['limit']))
    return path, asked, [t for t in map(json.loads, whole.splitlines()) if stands(t)]


def identity(question):
    "Names a question by what is in its folder."
    files = sorted(p for p in question.iterdir() if p.suffix in ('.npy', '.json'))
    return hashlib.sha256(b''.join(hashlib.sha256(p.read_bytes()).digest() for p in files)).hexdigest()[:12]


def tune(folder, name, trials, limit, asked=in_a_process, bar=None):
    "The trials of a peer, as a list; the ones that are missing are made."
    path, question, done = trials_of(folder, name, limit)
    path.parent.mkdir(exist_ok=True); to = folder / 'trials' / f'{slug(name)}.npy'
    while len(done) < trials and not (len(done) >= GIVE_UP and all(t['map'] is None for t in done[-GIVE_UP:])):
        settings, start, stopped, found = proposal(name, done), time.perf_counter(), '', []
        for judge in judges(folder):
            stopped = asked(judge, name, settings, to, max(.01, limit - (time.perf_counter() - start)))
            if stopped:
                if time.perf_counter() - start >= limit: stopped = late(limit)  # of the whole trial; this period had what was left
                break
            found.append(average_precision(np.load(to)[:, :12], np.load(judge / 'bought.npy')))
        value = None if stopped else round(float(np.concatenate(found).mean()), 7)
        done.append(dict(peer=name, trial=len(done), settings=settings, map=value, seconds=round(time.perf_counter() - start, 1), limit=limit, stopped=stopped, question=question))
        with open(path, 'a') as f: f.write(json.dumps(done[-1]) + '\n')
        if bar is not None: bar.update()
    to.unlink(missing_ok=True)
    return done


def finish(folder, name, done, limit, asked=in_a_process):
    "Ask a peer, with its best settings, what the test periods ask; write `answers/<peer>/<date>.npy` and `answers/<peer>/peer.json`."
    good = [t for t in done if t['map'] is not None]; place = folder / 'answers' / slug(name)
    found = max(good, key=lambda t: t['map']) if good else None
    about = dict(peer=name, trials=len(done), ended=sum(t['map'] is None for t in done), settings=found and found['settings'], tuned_map=found and found['map'],
                 usual_map=done[0]['map'] if done else None, seconds=round(sum(t['seconds'] for t in done), 1), stopped='' if good else (done[-1]['stopped'] if done else 'no trial'))
    old = json.loads((place / 'peer.json').read_text()).get('answered', {}) if (place / 'peer.json').exists() else {}; about['answered'] = {}
    for test in sorted(folder.glob('test-*')) if good else []:
        date = test.name.removeprefix('test-'); to, this = place / f'{date}.npy', [identity(test), found['settings']]
        fresh = to.exists() and old.get(date) == this; about['stopped'] = about['stopped'] or ('' if fresh else asked(test, name, found['settings'], to, 5 * limit))
        if fresh or not about['stopped']: about['answered'][date] = this
    place.mkdir(parents=True, exist_ok=True); (place / 'peer.json').write_text(json.dumps(about, indent=1) + '\n')
    return about


def main(folder, names, trials, limit):
    missing = [n for n in names if n not in models.PEERS]
    if missing: sys.exit(f"error: no peer {missing[0]!r}; there is {', '.join(models.PEERS)}")
    bar = tqdm(total=len(names) * trials, desc='trials', mininterval=1)
    for i, name in enumerate(names):
        bar.set_postfix_str(name); bar.n = i * trials + min(trials, len(trials_of(folder, name, limit)[2])); bar.refresh()
        about = finish(folder, name, tune(folder, name, trials, limit, bar=bar), limit)
        number = lambda v: 'none' if v is None else f'{v:.5f}'
        tqdm.write(f"{name}: {about['trials']} trials, {about['seconds']:.0f} s, MAP@12 where it was tuned {number(about['tuned_map'])} (as the library is set: {number(about['usual_map'])})"
                   + (f"; {about['stopped']}" if about['stopped'] else ''))
    bar.close()


if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('folder', type=Path, help='<run>/peers')
    parser.add_argument('--trials', type=int, default=20, help='for each peer')
    parser.add_argument('--limit', type=float, default=120, help='seconds for a trial')
    parser.add_argument('--peers', default='', help='names, separated by semicolons; all if left out')
    for hidden in ('--answer', '--settings', '--to'): parser.add_argument(hidden, help=argparse.SUPPRESS)
    a = parser.parse_args()
    if a.answer: np.save(a.to, answer(a.folder, a.answer, json.loads(a.settings)))
    else: main(a.folder, [n.strip() for n in a.peers.split(';') if n.strip()] or list(models.PEERS), a.trials, a.limit)
