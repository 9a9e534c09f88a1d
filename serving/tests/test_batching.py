"""Requests that wait together: asked about in one go, answered each with its own, failing and going away alone."""
import asyncio, contextvars, threading, types

import numpy as np, pytest

from recsys_lib.retrieval import PURCHASE, history_of
from serving.batching import MOST, Batching, aside, in_thread

WHOSE = contextvars.ContextVar('whose')


def somebody(item): return history_of([[(item, 1., 0., 1, PURCHASE)]], 4)


@pytest.fixture
def model():
    "Says back whose history it was, and notes how many it was asked about at a time. Item 13 is too much for it."
    asked, model = [], types.SimpleNamespace(kind=ValueError)
    def recommend(history, k=12, exclude=None, filters=None, diversity=0.):
        asked.append((len(history), k)); first = history.item[:, :1]
        if (first == 13).any(): raise model.kind('13')
        return np.repeat(first, k, 1), np.full((len(history), k), float(diversity))
    model.asked, model.batching = asked, Batching(types.SimpleNamespace(recommend=recommend))
    return model


def view(model, item, k=2, diversity=0.):
    "As a view of Flask: it knows whose it is, asks the model, and still knows."
    WHOSE.set(item); ids, scores = model.batching.recommend(somebody(item), k, diversity=diversity)
    assert WHOSE.get() == item and ids.shape == scores.shape == (1, k)
    return int(ids[0, 0])


def test_those_that_wait_are_asked_about_in_one_go(model):
    async def several(): return await asyncio.gather(*(aside(view, model, item) for item in range(100, 120)))
    assert asyncio.run(several()) == list(range(100, 120)) and [n for n, _ in model.asked] == [MOST, MOST, 20 - 2 * MOST]


def test_lists_of_one_length_go_together(model):
    async def several(): return await asyncio.gather(*(aside(view, model, item, 1 + item % 2) for item in range(6)))
    assert asyncio.run(several()) == list(range(6)) and sorted(model.asked) == [(3, 1), (3, 2)]


def test_what_is_asked_with_more_is_asked_alone(model):
    async def several(): return await asyncio.gather(*(aside(view, model, item, 2, .5) for item in range(3)))
    assert asyncio.run(several()) == [0, 1, 2] and model.asked == [(1, 2)] * 3


def test_outside_of_the_loop_nobody_waits(model): assert view(model, 5) == 5 and model.asked == [(1, 2)]


@pytest.mark.parametrize('kind,told', [(ValueError, ValueError), (StopIteration, RuntimeError), (asyncio.CancelledError, RuntimeError)])
def test_one_that_fails_fails_alone(model, caplog, kind, told):
    model.kind = kind
    async def several(): return await asyncio.gather(*(aside(view, model, item) for item in (1, 13, 2)), return_exceptions=True)
    one, failed, two = asyncio.run(several())
    assert (one, two) == (1, 2) and isinstance(failed, told) and 'one by one' in caplog.text


def test_what_takes_long_lets_others_pass(model):
    "A call in a thread, and nobody waits for it; what it raises is raised where it was asked for."
    began, go, order = threading.Event(), threading.Event(), []
    def slow(): began.set(); assert go.wait(30); raise ValueError('none')
    def upload():
        try: in_thread(slow)
        except ValueError as e: order.append(str(e))
    def quick(): assert began.wait(30) and view(model, 7) == 7; order.append('quick'); go.set()
    async def both(): await asyncio.gather(aside(upload), aside(quick))
    asyncio.run(both()); assert order == ['quick', 'none'] and in_thread(lambda: 5) == 5


def test_a_client_that_goes_leaves_nothing_behind(model):
    ended = []
    def leaving(item):
        try: return view(model, item)
        finally: ended.append(item)
    async def several():
        tasks = [asyncio.ensure_future(aside(leaving, item)) for item in (1, 2, 3)]
        await asyncio.sleep(0); tasks[1].cancel()
        return await asyncio.gather(*tasks, return_exceptions=True)
    one, gone, three = asyncio.run(several())
    assert (one, three) == (1, 3) and isinstance(gone, asyncio.CancelledError) and sorted(ended) == [1, 2, 3]
