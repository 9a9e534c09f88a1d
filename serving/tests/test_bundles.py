"""Bundles are switched while the service answers; a bad one is refused, and the old one goes on."""
import gc, json, shutil, time, weakref
from pathlib import Path

import pytest

from recsys_lib.bundle import describe
from recsys_lib.core import InputError, read_json
from serving.app import create_app

from .conftest import reseal

KEY = dict(LOOKBOOK='an admin key for tests')


def another(bundle, folder, version, without=()):
    "A copy of a bundle that can be told apart: its names are in capitals. `without`: files that it lacks, rightfully."
    copy = folder / version; shutil.copytree(bundle, copy); manifest = read_json(copy / 'manifest.json')
    import numpy as np
    data = np.load(copy / 'text_prod_name_data.npy'); data[(data >= 97) & (data <= 122)] -= 32; np.save(copy / 'text_prod_name_data.npy', data)
    manifest['files']['text_prod_name_data.npy'] = describe(copy / 'text_prod_name_data.npy'); manifest['version'] = version
    for name in without: manifest['files'].pop(name, None); (copy / name).unlink(missing_ok=True)
    reseal(copy, manifest)
    return copy


@pytest.fixture
def shelf(bundle, tmp_path):
    "A folder with two good bundles, a corrupt one, and a link to the first."
    folder = tmp_path / 'bundle'; folder.mkdir(); shutil.copytree(bundle, folder / bundle.name); another(bundle, folder, 'second'); another(bundle, folder, 'corrupt')
    path = folder / 'corrupt/als_factors.npy'; data = bytearray(path.read_bytes()); data[-1] ^= 1; path.write_bytes(data)
    (folder / 'current').symlink_to(bundle.name)
    return folder


@pytest.fixture
def client(shelf, tmp_path): return create_app(dict(BUNDLE=str(shelf / 'current'), STATE=str(tmp_path / 'state'), ADMIN_KEY='an admin key for tests')).test_client()


def admin(client, **body): return client.post('/admin/bundle', json=body, headers={'X-Admin-Key': 'an admin key for tests'})


def test_switching_and_going_back(client, shelf, bundle, customers):
    "Answers come from the bundle that they say, kept ones too; the link is moved, so that a service that is started later agrees."
    ask = lambda: client.get(f'/recommend/{customers[0]}').json; first = ask(); assert ask() == first
    state = admin(client, version='second').json
    assert (state['bundle'], state['previous'], state['refused']) == ('second', bundle.name, None) and set(state['versions']) == {bundle.name, 'second', 'corrupt'}
    second = ask(); assert second['bundle'] == 'second' and (shelf / 'current').resolve().name == 'second'
    assert [(r['article_id'], r['score'], r['prod_name']) for r in second['recommendations']] == [(r['article_id'], r['score'], r['prod_name'].upper()) for r in first['recommendations']]
    assert admin(client, rollback=True).json['bundle'] == bundle.name and ask() == first and (shelf / 'current').resolve().name == bundle.name
    assert admin(client, rollback=True).json['bundle'] == 'second'


def test_a_bundle_goes_when_nobody_can_go_back_to_it(client, shelf, bundle, customers):
    "At once, with no help of the collector, which never comes to what was there when the service began; a request that is under way has its answer."
    bundles = client.application.extensions['bundles']; another(bundle, shelf, 'third'); first = bundles.recommender; gone = weakref.ref(first); gc.disable()
    try:
        for version in ('second', 'third'): bundles.switch(shelf / version); assert client.get(f'/recommend/{customers[0]}').json['bundle'] == version
        ids, _ = first.recommend(first.customers(customers[:1]), 3); assert first.describe(ids[0, 0])['article_id']
        del first; assert gone() is None and bundles.previous.version == 'second'
        assert bundles.switch(shelf / 'second').recommend.__self__ is not bundles.recommender  # one that was gone back to answers as before: together
    finally: gc.enable()


def test_a_bad_bundle_is_refused(client, shelf, bundle, customers, tmp_path):
    first = client.get(f'/recommend/{customers[0]}').json
    refused = admin(client, version='corrupt')
    assert refused.status_code == 422 and 'als_factors.npy: altered' in json.loads(refused.text)['detail']
    assert client.get(f'/recommend/{customers[0]}').json == first and client.get('/healthz').json['refused']['bundle'] == 'corrupt' and (shelf / 'current').resolve().name == bundle.name
    another(bundle, shelf, 'blind', without=['towers.json'])
    if client.get('/healthz').json['search']: assert 'cannot search' in json.loads(admin(client, version='blind').text)['detail']
    for body, field in ((dict(version='../../etc'), 'version'), (dict(version='nope'), 'version'), (dict(version=''), 'version'), (dict(version=3), 'version'), (dict(), None), (dict(version='second', rollback=True), None), (dict(more=1), 'more')):
        answer = admin(client, **body); assert answer.status_code == 422, answer.text
        if field: assert json.loads(answer.text)['errors'][0]['field'] == field
    assert admin(client, version='second').json['refused'] is None


def test_the_link_is_followed(shelf, bundle, tmp_path):
    "Also by a worker that starts while it is on a bad bundle, if the service has answered from a good one."
    settings = dict(BUNDLE=str(shelf / 'current'), STATE=str(tmp_path / 'state'))
    def point(version): (shelf / '.new').symlink_to(version); (shelf / '.new').rename(shelf / 'current')
    def wait(app, **expected):
        end = time.monotonic() + 60
        while not expected.items() <= (said := app.test_client().get('/healthz').json).items(): assert time.monotonic() < end, said; time.sleep(.02)
        return said
    app = create_app(settings); app.extensions['bundles'].follow(.05)
    point('second'); wait(app, bundle='second', previous=bundle.name)
    point('corrupt'); end = time.monotonic() + 60
    while app.test_client().get('/healthz').json['refused'] is None: assert time.monotonic() < end; time.sleep(.02)
    said = wait(app, bundle='second'); assert said['refused']['bundle'] == 'corrupt'
    later = create_app(settings).test_client().get('/healthz').json; assert later['bundle'] == 'second' and later['refused']['bundle'] == 'corrupt'
    (tmp_path / 'state/serving').unlink()
    with pytest.raises(InputError, match='altered'): create_app(settings)
    point('second'); wait(app, bundle='second', refused=None)  # back to the one that answers: nothing is refused any more
    point(bundle.name); wait(app, bundle=bundle.name, refused=None)


def test_a_bundle_that_was_refused_is_tried_again_once_it_is_mended(shelf, bundle, tmp_path):
    app = create_app(dict(BUNDLE=str(shelf / 'current'), STATE=str(tmp_path / 'state'))); said = lambda: app.test_client().get('/healthz').json; bundles = app.extensions['bundles']
    tried = []; opened = bundles.opened; bundles.opened = lambda folder: tried.append(folder.name) or opened(folder); bundles.follow(.02)
    def until(what):
        end = time.monotonic() + 60
        while not what(): assert time.monotonic() < end; time.sleep(.02)
    (shelf / '.new').symlink_to('corrupt'); (shelf / '.new').rename(shelf / 'current'); until(lambda: said()['refused'])
    time.sleep(.3); assert tried == ['corrupt'] and said()['bundle'] == bundle.name  # as long as it stays as it is, once
    path = shelf / 'corrupt/als_factors.npy'; data = bytearray(path.read_bytes()); data[-1] ^= 1; path.write_bytes(data); until(lambda: said()['bundle'] == 'corrupt')
    assert said()['refused'] is None


def test_whatever_is_wrong_with_a_bundle_a_worker_that_starts_later_answers_from_the_good_one(shelf, bundle, tmp_path):
    "Sealed, and yet no ranker in it: what ONNX Runtime says of that is no error of ours."
    settings = dict(BUNDLE=str(shelf / 'current'), STATE=str(tmp_path / 'state')); create_app(settings).extensions['bundles'].note()
    bad = another(bundle, shelf, 'no-ranker'); (bad / 'ranker.onnx').write_bytes(b'no graph'); manifest = read_json(bad / 'manifest.json')
    manifest['files']['ranker.onnx'] = describe(bad / 'ranker.onnx'); reseal(bad, manifest)
    (shelf / 'current').unlink(); (shelf / 'current').symlink_to('no-ranker')
    said = create_app(settings).test_client().get('/healthz').json; assert said['bundle'] == bundle.name and said['refused']['bundle'] == 'no-ranker'
    (tmp_path / 'state/serving').unlink()
    with pytest.raises(InputError, match='no-ranker'): create_app(settings)


def test_a_worker_whose_link_cannot_be_moved_answers_from_what_it_says(client, shelf, monkeypatch):
    bundles = client.application.extensions['bundles']; bundles.follow(.02)
    def refused(*_): raise OSError(30, 'Read-only file system')
    monkeypatch.setattr(Path, 'rename', refused)
    monkeypatch.setattr('serving.bundles.write_whole', lambda *_: None)  # it renames too
    with pytest.raises(InputError, match='this worker answers from second'): bundles.point('second')
    time.sleep(.3); assert bundles.recommender.version == 'second'


def test_a_full_disk_does_not_end_the_following_of_the_link(client, shelf, bundle, monkeypatch):
    bundles = client.application.extensions['bundles']; bundles.follow(.02); full = [True]; note = bundles.note
    def noting():
        if full: full.pop(); raise OSError(28, 'No space left on device')
        note()
    monkeypatch.setattr(bundles, 'note', noting)
    def reached(version):
        (shelf / '.new').symlink_to(version); (shelf / '.new').rename(shelf / 'current'); end = time.monotonic() + 60
        while bundles.recommender.version != version: assert time.monotonic() < end; time.sleep(.02)
    reached('second'); reached(bundle.name); assert not full


def test_admin_is_closed(bundle, client, shelf):
    "Without a key in the settings to everybody, with one to those who do not have it; and what is no link is not moved."
    shut = create_app(dict(BUNDLE=str(bundle))).test_client()
    assert shut.get('/admin/bundle').status_code == admin(shut, version='second').status_code == 403
    for headers in ({}, {'X-Admin-Key': ''}, {'X-Admin-Key': 'an admin key for test'}, {'X-API-Key': 'an admin key for tests'}): assert client.get('/admin/bundle', headers=headers).status_code == 401
    fixed = create_app(dict(BUNDLE=str(shelf / 'second'), ADMIN_KEY='an admin key for tests')).test_client()
    assert admin(fixed, version=bundle.name).status_code == 409 and admin(fixed, rollback=True).status_code == 409
