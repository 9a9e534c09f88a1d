"""The peers: that each is asked fairly, answers what a plain reading of it would, and that tuning is bounded and can be taken up again."""
import importlib.util, json, sys, time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from recsys_lib.data import Dataset, ingest
from recsys_lib.metrics import average_precision
from recsys_lib.peers import export_question, question_name, what_sells
from recsys_lib.sources import SourceSettings
from recsys_lib.split import labels, plan_periods

HERE = Path(__file__).resolve().parents[1] / 'peers'
sys.path.insert(0, str(HERE))
import ask, models

SMALL = {'ALS (implicit)': dict(factors=8, iterations=3), 'BPR (implicit)': dict(factors=8, iterations=3), 'LightGBM, plain features': dict(trees=5), 'EASE (RecTools)': dict(items=200),
         'SASRec (RecTools)': dict(factors=8, epochs=1, blocks=1)}
TUNE = 'tune-2019-12-08'  # the later of two
AT_HAND = [name for name in models.PEERS if 'RecTools' not in name or importlib.util.find_spec('rectools')]


@pytest.fixture(scope='module')
def asked(twin, tmp_path_factory):
    "The folder of questions of the tiny twin, the dataset and the plan."
    folder = tmp_path_factory.mktemp('peers'); ingest(twin, folder / 'data')
    dataset = Dataset(folder / 'data'); plan = plan_periods(dataset, test_buyers=60, train_buyers=200, max_train=3)
    for period, name in ((plan.train[-2], 'tune-2019-12-01'), (plan.train[-1], TUNE), (plan.test[-1], 'test-2020-01-01')):
        export_question(dataset, period, what_sells(dataset, period.asof, SourceSettings()), folder / 'questions' / name, tell=name.startswith('tune'))
    return folder / 'questions', dataset, plan


def here(folder, name, settings, to, limit):
    "As `ask.in_a_process`, in this one."
    to.parent.mkdir(parents=True, exist_ok=True); np.save(to, ask.answer(folder, name, settings | {k: v for k, v in SMALL.get(name, {}).items() if k in settings}))
    return ''


def copy_of(folder, to):
    "The questions at another place."
    for path in folder.rglob('*'):
        if path.parent.name.startswith(('tune-', 'test-')): (to / path.parent.name).mkdir(parents=True, exist_ok=True); (to / path.relative_to(folder)).write_bytes(path.read_bytes())
    return to


def test_both_environments_name_a_question_alike(asked):
    questions = [asked[0] / name for name in (TUNE, 'test-2020-01-01')]
    assert len({ask.identity(q) for q in questions}) == 2 and all(ask.identity(q) == question_name(q) for q in questions)


@pytest.mark.parametrize('name', AT_HAND)
def test_a_peer_answers_everybody_with_eligible_articles_and_twice_the_same(asked, name):
    folder, dataset, plan = asked; q = models.Question.open(folder / 'test-2020-01-01')
    answer, usual, ranges = models.PEERS[name]; settings = usual | SMALL.get(name, {})
    assert set(usual) == set(ranges)
    own = answer(q, **settings); ids = models.followed_by(own, q.fill, q.k)
    assert own.shape == ids.shape == (len(q.users), q.k) and own.dtype.kind == 'i' and own.min() >= -1 and ids.min() >= 0 and ids.max() < q.n_items == dataset.n_items_at(plan.test[-1].asof)
    assert all(len(set(row)) == q.k for row in ids) and np.array_equal(answer(q, **settings), own)
    unknown = q.users >= q.n_users
    assert (ids[unknown] == ids[unknown][:1]).all() and np.array_equal(q.known, q.users < q.n_users)
    # who has a past gets something of their own, what they bought not being forbidden
    if 'popularity, tuned' != name: assert (ids[q.known] != ids[unknown][0] if unknown.any() else ids[q.known]).any()


@pytest.mark.parametrize('name', [n for n in AT_HAND if 'first' in models.PEERS[n][1]])
def test_a_peer_that_is_told_so_begins_with_what_was_bought(asked, name):
    q = models.Question.open(asked[0] / TUNE); answer, usual, _ = models.PEERS[name]
    ids = answer(q, **usual | SMALL.get(name, {}) | dict(first=True, first_half_life=5.)); own = models.bought(q, 5.); n = (own >= 0).sum(1)
    assert n.max() > 1 and all(np.array_equal(i[:m], o[:m]) for i, o, m in zip(ids, own, n))


@pytest.mark.parametrize('name', [n for n in AT_HAND if 'half_life' in models.PEERS[n][1] and models.PEERS[n][0] not in (models.popularity, models.lightgbm_plain)])
def test_what_is_forgotten_says_nothing(asked, name):
    "With a half-life of a tenth of a day nothing is left of a purchase of three weeks ago: its buyer is told what sells, and nothing at random."
    q = models.Question.open(asked[0] / TUNE); answer, usual, _ = models.PEERS[name]; days = q.interactions[:, 2]
    last = np.full(q.n_users, -10 ** 6); np.maximum.at(last, q.interactions[:, 0], days); gone = q.known.copy(); gone[gone] = q.asof - last[q.users[gone]] > 20
    own = answer(q, **usual | SMALL.get(name, {}) | dict(half_life=.1)); assert gone.any() and (q.known & ~gone).any()
    assert (own[gone] == own[~q.known][:1] if 'repurchase' in name else own[gone] == -1).all() and (own[q.known & ~gone] >= 0).any()


def test_popularity_counts_buyers_of_each_day(asked):
    q = models.Question.open(asked[0] / TUNE); frame = pd.DataFrame(q.interactions, columns=['user', 'item', 'day']).drop_duplicates()
    by_hand = frame.assign(w=.5 ** ((q.asof - 1 - frame.day) / 3.)).groupby('item').w.sum()
    assert np.allclose(models.sales(q, 3.)[by_hand.index], by_hand) and np.isclose(models.sales(q, 3.).sum(), by_hand.sum())
    usual = models.popularity(q, 7.)[0]  # the fill-up is the snapshot's popularity, of the same half-life
    top = models.sales(q, 7.)
    assert top[usual][-1] >= np.sort(top)[-24] - 1e-9 and len(q.fill) == 200


def test_repurchase_orders_by_decayed_number(asked):
    q = models.Question.open(asked[0] / TUNE); ids = models.repurchase(q, 20., 7.); frame = pd.DataFrame(q.interactions, columns=['user', 'item', 'day'])
    for b in np.flatnonzero(q.known)[:40]:
        own = frame[frame.user == q.users[b]]; score = (.5 ** ((q.asof - 1 - own.day) / 20.)).groupby(own.item).sum()
        mine = ids[b][np.isin(ids[b], score.index)]
        assert (np.diff(score[mine[:min(len(score), 24)]]) <= 1e-6).all() and set(ids[b][:min(len(score), 24)]) <= set(score.index)


def test_lists_are_continued_without_repeats():
    rng = np.random.default_rng(0)
    for _ in range(200):
        ids = rng.integers(-1, 6, (3, rng.integers(0, 8))); more = rng.permutation(9)[:rng.integers(0, 6)]; k = int(rng.integers(1, 8))
        for row, got in zip(ids, models.followed_by(ids, more, k)):
            expected = list(dict.fromkeys(i for i in [*row, *more] if i >= 0))[:k]
            assert got.tolist() == expected + [-1] * (k - len(expected))


def test_plain_features_are_what_they_say(asked):
    q = models.Question.open(asked[0] / TUNE); row, item, x = models.plain_rows(q, 20, 20, 7.); frame = pd.DataFrame(q.interactions, columns=['user', 'item', 'day'])
    assert len(set(zip(row, item))) == len(row) and set(row) == set(range(len(q.users)))
    last, times = frame.groupby(['user', 'item']).day.max(), frame.groupby(['user', 'item']).size(); sold = models.sales(q, 7.)
    for r in np.random.default_rng(0).permutation(len(row))[:300].tolist() + np.flatnonzero(x[:, 0] > 0)[:100].tolist():
        key = q.users[row[r]], item[r]
        assert x[r, 0] == times.get(key, 0) and x[r, 1] == (q.asof - last[key] if key in last.index else -1) and np.isclose(x[r, 2], sold[item[r]], rtol=1e-5)
    assert (x[:, 0] > 0).any() and (x[:, 4] > 0).any()


def test_lightgbm_learns_from_what_is_known_only(asked, monkeypatch):
    "The periods it is taught by end before the question's date, and it knows nothing of them when it is asked about them."
    q, seen, rows = models.Question.open(asked[0] / TUNE), [], models.plain_rows
    monkeypatch.setattr(models, 'plain_rows', lambda q, *settings: seen.append(q) or rows(q, *settings)); models.lightgbm_plain(q, **models.PEERS['LightGBM, plain features'][1] | dict(periods=2))
    assert [s.asof for s in seen] == [q.asof - q.horizon, q.asof - 2 * q.horizon, q.asof] and all(s.interactions[:, 2].max() < s.asof for s in seen)
    for s in seen[:2]: assert set(s.users) == set(q.interactions[(q.interactions[:, 2] >= s.asof) & (q.interactions[:, 2] < s.asof + q.horizon), 0])


def test_tuning_can_be_taken_up_again(asked, tmp_path):
    once, twice = copy_of(asked[0], tmp_path / 'once'), copy_of(asked[0], tmp_path / 'twice'); name = 'repurchase + popularity, tuned'
    ask.tune(once, name, 10, 60, here); ask.tune(twice, name, 4, 60, here)
    path = twice / 'trials' / f'{ask.slug(name)}.jsonl'; path.write_text(path.read_text() + '{"peer": "torn')  # killed while it wrote
    made = []
    done = ask.tune(twice, name, 10, 60, lambda *a: made.append(a) or here(*a))
    bare = lambda lines: [{k: v for k, v in line.items() if k != 'seconds'} for line in lines]
    assert len(made) == 6 * 2 and bare(done) == bare(ask.trials_of(once, name, 60)[2]) == bare(ask.trials_of(twice, name, 60)[2])
    assert done[0]['settings'] == models.PEERS[name][1] and len({json.dumps(t['settings']) for t in done}) == 10 and max(t['map'] for t in done) >= done[0]['map'] > 0
    fewer = np.load(twice / TUNE / 'users.npy')[:-1]; np.save(twice / TUNE / 'users.npy', fewer)  # another question: the old lines say nothing
    assert ask.trials_of(twice, name, 60)[2] == []


def test_a_trial_is_judged_by_everybody_of_all_periods(asked):
    folder, name = asked[0], 'popularity, tuned'; settings = models.PEERS[name][1]
    by_hand = [average_precision(ask.answer(q, name, settings)[:, :12], np.load(q / 'bought.npy')) for q in ask.judges(folder)]
    assert len(by_hand) == 2 and np.isclose(ask.tune(folder, name, 1, 60, here)[0]['map'], np.concatenate(by_hand).mean(), atol=1e-7)


def test_a_trial_has_its_time_for_all_periods_together(asked, tmp_path):
    folder, name, given = copy_of(asked[0], tmp_path / 'late'), 'popularity, tuned', []
    def late(question, name, settings, to, limit):
        given.append(limit)
        if len(given) % 2: time.sleep(.3); return here(question, name, settings, to, limit)
        time.sleep(limit); return ask.late(limit)
    trial, = ask.tune(folder, name, 1, 1, late)
    assert given[0] > .9 and given[1] <= .7 and (trial['map'], trial['stopped']) == (None, 'ended after 1 s')


def test_proposals_stay_in_their_ranges_and_none_comes_twice():
    for name, (_, _, ranges) in models.PEERS.items():
        done = []
        for n in range(60):
            settings = ask.proposal(name, done); assert ask.counts(settings) not in [ask.counts(t['settings']) for t in done]; done.append(dict(settings=settings, map=n / 100))
            assert n == 0 or all(settings[k] in r if isinstance(r, list) else r[0] <= settings[k] <= r[1] for k, r in ranges.items()), (name, settings)


def test_a_slow_peer_is_ended_and_then_left_alone(asked, tmp_path):
    folder, name = copy_of(asked[0], tmp_path / 'slow'), 'ALS (implicit)'
    assert ask.in_a_process(folder / TUNE, name, models.PEERS[name][1], folder / 'trials/x.npy', .05) == 'ended after 0 s'
    done = ask.tune(folder, name, 20, 1, lambda *a: 'ended after 1 s'); about = ask.finish(folder, name, done, 1, here)
    assert len(done) == ask.GIVE_UP and about['stopped'] == 'ended after 1 s' and about['settings'] is None and not list(folder.glob('answers/*/*.npy'))
    no = lambda *a: pytest.fail('asked again'); assert ask.tune(folder, name, 20, 1, no) == done == ask.tune(folder, name, 20, .5, no)  # with as much time or less it is left alone
    longer = ask.tune(folder, name, 2, 60, lambda *a: 'exit 1: no such library'); assert [t['trial'] for t in longer] == [0, 1] and longer[0]['settings'] == done[0]['settings']
    assert all(t['map'] is not None for t in ask.tune(folder, name, 1, 60, here))  # the library is there now
    path, _, lines = ask.trials_of(folder, name, 60); path.write_text(path.read_text() + json.dumps({k: v for k, v in (done[0] | dict(question=lines[0]['question'])).items() if k != 'limit'}) + '\n')
    assert ask.trials_of(folder, name, 60)[2] == lines  # a line of before says no limit: it is asked again


def test_a_peer_in_a_process_of_its_own_answers_the_same(asked, tmp_path):
    folder, name = copy_of(asked[0], tmp_path / 'own'), 'popularity, tuned'
    done = ask.tune(folder, name, 1, 120); about = ask.finish(folder, name, done, 120, here)
    assert done[0]['stopped'] == '' and about['tuned_map'] == done[0]['map'] == about['usual_map']
    ids = np.load(folder / 'answers' / ask.slug(name) / '2020-01-01.npy'); bought = labels(asked[1], asked[2].test[-1])
    assert len(ids) == len(bought) and np.array_equal(ids, ask.answer(folder / 'test-2020-01-01', name, about['settings']))
    made = []; ask.finish(folder, name, done, 120, lambda *a: made.append(a) or here(*a)); assert not made  # the answer is there
    np.save(folder / 'test-2020-01-01/fill.npy', np.load(folder / 'test-2020-01-01/fill.npy')[::-1]); ask.finish(folder, name, done, 120, lambda *a: made.append(a) or here(*a)); assert len(made) == 1
    broken = ask.in_a_process(folder / TUNE, name, dict(half_life='long'), folder / 'x.npy', 120)
    assert broken.startswith('exit 1: ') and 'Error' in broken
