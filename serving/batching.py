"""Requests that wait at the same time are answered together: the model takes less for each of several visitors than for one alone.

A request is plain synchronous code, in a greenlet of its own. Where it asks the model it stands aside; the loop takes up the next request, and those
that stand aside are asked about in one go (adaptive batching, as in Clipper, Crankshaw et al. 2017, without waiting for anybody). A batch says to the bit
what one by one would (`35_retrieval`), so an answer does not depend on its company.
"""
import asyncio, contextvars, itertools, logging
from concurrent.futures import ThreadPoolExecutor

from greenlet import getcurrent, greenlet

from recsys_lib.bundle import Recommender
from recsys_lib.retrieval import joined

log = logging.getLogger('lookbook.batching')
MOST = 8  # visitors in one go: nobody waits for more


class Standing(greenlet):
    "A call that may stand aside. What it switches out with is a future, what it is given back is its result."


async def aside(call, *args):
    "The result of a synchronous call; while it stands aside, others run."
    one = Standing(call); one.gr_context = contextvars.copy_context()
    said = one.switch(*args)
    while not one.dead:
        try: result = await said
        except BaseException as e: said = one.throw(e)  # also when the client has gone: the call ends as if it had failed
        else: said = one.switch(result)
    return said


POOL = ThreadPoolExecutor(1, 'aside')  # of a worker: it has a core


def in_thread(call, *args):
    "The result of a call that computes outside of Python for long (decoding, a model): in a thread, while the loop answers others. Outside of a call that may stand aside, at once."
    if not isinstance(getcurrent(), Standing): return call(*args)
    return getcurrent().parent.switch(asyncio.get_running_loop().run_in_executor(POOL, call, *args))


class Batching:
    "Asks a recommender for those who wait. Outside of a call that may stand aside it asks for one."
    def __init__(self, recommender: Recommender):
        self.one_by_one, self.waiting = recommender.recommend, []

    def recommend(self, history, k=12, exclude=None, filters=None, diversity=0.):
        "As `Recommender.recommend`."
        if not isinstance(getcurrent(), Standing) or len(history) > 1 or exclude is not None or filters is not None or diversity:
            return self.one_by_one(history, k, exclude, filters, diversity)
        loop = asyncio.get_running_loop(); said = loop.create_future()
        if not self.waiting: loop.call_soon(loop.call_soon, self.answer, loop)  # two turns of the loop: in the first, requests begin that came while the model was at work
        self.waiting.append((k, history, said))
        return getcurrent().parent.switch(said)

    def answer(self, loop):
        "Ask for those who have waited longest."
        now, self.waiting = self.waiting[:MOST], self.waiting[MOST:]
        if self.waiting: loop.call_soon(self.answer, loop)
        for k, those in itertools.groupby(sorted(now, key=lambda w: w[0]), key=lambda w: w[0]):
            _, histories, futures = zip(*those)
            for said, one in zip(futures, self.found(histories, k)):
                if said.done(): continue  # the client has gone
                said.set_exception(one) if isinstance(one, Exception) else said.set_result(one)

    def found(self, histories, k) -> list:
        "The answer to each, or what went wrong. Whoever is to blame, the others have theirs, and nobody is left waiting."
        if len(histories) > 1:
            try: ids, scores = self.one_by_one(joined(histories), k); return [(ids[n:n + 1], scores[n:n + 1]) for n in range(len(ids))]
            except BaseException as e: log.warning('a batch failed, and is worked out one by one', exc_info=e)
        return [self.alone(history, k) for history in histories]

    def alone(self, history, k):
        try: return self.one_by_one(history, k)
        except BaseException as e: return e if isinstance(e, Exception) and not isinstance(e, StopIteration) else RuntimeError(repr(e))  # those two a future does not take
