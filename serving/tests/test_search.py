"""Search: the service says what `Recommender` says, and refuses what cannot be searched for or is no image."""
import io, shutil, struct, zlib

import numpy as np, pytest
from hypothesis import given, settings, strategies as st
from PIL import Image, features

from recsys_lib.bundle import describe
from recsys_lib.core import read_json, write_json
from recsys_lib.search import MODES, MOST, UNLEARNED
from serving.app import create_app
from serving.search import FORMATS

from .conftest import listed, pairs, reseal
from .test_problems import refused

pytestmark = pytest.mark.usefixtures('searchable')


@pytest.fixture(scope='session')
def searchable(recommender):
    if not recommender.can_search: pytest.skip('a bundle without search')


@pytest.fixture(scope='session')
def without_search(bundle, tmp_path_factory):
    "A client of a service whose bundle has no search."
    copy = tmp_path_factory.mktemp('without') / 'bundle'; shutil.copytree(bundle, copy); manifest = read_json(copy / 'manifest.json')
    names = [n for n in manifest['files'] if n.startswith(('clip_', 'words', 'search_', 'tokenizer', 'towers'))]
    for name in names: del manifest['files'][name]; (copy / name).unlink()
    reseal(copy, manifest)
    return create_app(dict(BUNDLE=str(copy))).test_client()


def encoded(image, format='PNG', **how):
    held = io.BytesIO(); image.save(held, format, **how)
    return held.getvalue()


def form(data, name='image', **fields): return dict(data={name: (io.BytesIO(data), 'photo'), **fields}, content_type='multipart/form-data')


def picture(size=(40, 60)):
    "A garment, drawn by chance."
    return Image.fromarray(np.random.default_rng(size[0]).integers(0, 256, (size[1], size[0], 3), np.uint8))


def texts(recommender):
    about = [recommender.describe(i) for i in range(0, len(recommender.article_ids), max(1, len(recommender.article_ids) // 20))]
    return [f"{a.get('colour_group_name', '')} {a.get('product_type_name', 'dress')}" for a in about] + ['something for a beach wedding', "women's T-SHIRT, 100% \"cotton\" & +/-", '裙子 👗', 'x' * 1000, 'a\x00b']


# -- what is answered

@pytest.mark.parametrize('mode', MODES)
def test_texts(client, recommender, mode):
    "Each text's answer is `Recommender`'s, whether it was asked alone or with others."
    asked = texts(recommender); ids, scores = recommender.search(asked, 9, mode)
    for n, text in enumerate(asked):
        answer = client.get('/search', query_string=dict(q=text, k=9, mode=mode)).json
        assert listed(answer) == pairs(ids[n], scores[n], recommender) and (answer['q'], answer['mode'], answer['bundle']) == (text, mode, recommender.version)


def test_defaults_and_names(client, recommender):
    answer = client.get('/search?q=dress').json; ids, scores = recommender.search(['dress'])
    assert listed(answer) == pairs(ids[0], scores[0], recommender) and len(answer['results']) == 12 and answer['mode'] == 'both'
    first = answer['results'][0]; about = recommender.describe(recommender.item_index(first.pop('article_id')))
    assert first.pop('score') and first == {k: v for k, v in about.items() if k != 'article_id'}
    assert client.get('/search?q=qwertzuiop&mode=words').json['results'] == []  # no padding leaves the service
    assert len(client.get(f'/search?q=dress&k={MOST}').json['results']) == min(MOST, len(recommender.article_ids))


@pytest.mark.parametrize('format', FORMATS)
def test_images(client, recommender, format):
    "Of every format, and as large as a camera makes them."
    if format == 'AVIF' and not features.check('avif'): pytest.skip('a Pillow without AVIF')
    for size in ((40, 60), (2000, 1500)):
        data = encoded(picture(size), format); ids, scores = recommender.search_image([data], 5)
        answer = client.post('/search/image?k=5', **form(data))
        assert len(data) < 8 * 1024 * 1024 or answer.status_code == 413
        if answer.status_code == 200: assert listed(answer.json) == pairs(ids[0], scores[0], recommender) and len(answer.json['results']) == 5


@pytest.mark.parametrize('mode', ['L', 'RGBA', 'P', 'LA', '1', 'CMYK'])
def test_modes_of_images(client, mode):
    assert len(client.post('/search/image', **form(encoded(picture().convert(mode), 'JPEG' if mode == 'CMYK' else 'PNG'))).json['results']) == 12


def test_uploads_are_not_written_to_disk(client, monkeypatch, tmp_path):
    "The container's file system is read-only."
    import tempfile
    monkeypatch.setattr(tempfile, 'tempdir', str(tmp_path / 'nothing'))
    body = b'--x\r\nContent-Disposition: form-data; name="image"; filename="a"\r\n\r\n' + encoded(picture((900, 900))) + b'\r\n--x--\r\n'  # the test client's own forms would be
    assert len(body) > 1e6 and client.post('/search/image', data=body, content_type='multipart/form-data; boundary=x').status_code == 200


# -- what is refused

@pytest.mark.parametrize('query, field, expected', [
    ('', 'q', 'a text of 1 to 1,000'), ('q=', 'q', 'a text of 1 to'), ('q=%20%09', 'q', 'a text of 1 to'), ('q=' + 'x' * 1001, 'q', 'a text of 1 to'), ('q=a&q=b', 'q', 'one value'),
    ('q=a&mode=magic', 'mode', 'one of both, words, meaning'), ('q=a&mode=', 'mode', 'one of both'), ('q=a&mode=BOTH', 'mode', 'one of both'), ('q=a&colour=red', 'colour', 'one of k, q, mode'),
    *((f'q=a&k={k}', 'k', f'an integer from 1 to {MOST}') for k in ('0', '-1', str(MOST + 1), '9' * 5000, '1.5', 'abc', '', 'NaN', '%EF%BC%99', '%00', '1_0'))])
def test_texts_that_are_refused(client, query, field, expected): refused(client.get('/search?' + query), 422, field, expected)


@settings(max_examples=100, deadline=None)
@given(q=st.text(st.characters(exclude_categories=['Cs']), max_size=80), mode=st.sampled_from(MODES))
def test_any_text_has_an_answer(app, q, mode):
    answer = app.test_client().get('/search', query_string=dict(q=q, mode=mode))
    if q.strip(): assert answer.status_code == 200 and (mode == 'words' or len(answer.json['results']) == 12)
    else: refused(answer, 422, 'q', 'a text of 1 to')


def test_bytes_that_are_no_text(client): assert client.get('/search?q=%ff%fe').status_code == 200  # replaced, as Flask does it


def bomb(width, height):
    "A PNG of a few bytes that says it is huge."
    chunk = lambda kind, data: struct.pack('>I', len(data)) + kind + data + struct.pack('>I', zlib.crc32(kind + data))
    return b'\x89PNG\r\n\x1a\n' + chunk(b'IHDR', struct.pack('>IIBBBBB', width, height, 8, 2, 0, 0, 0)) + chunk(b'IDAT', zlib.compress(bytes(9))) + chunk(b'IEND', b'')


good = encoded(picture())
@pytest.mark.parametrize('data, expected', [
    (b'', 'that are none'), (b'nothing', 'that are none'), (good[:200], 'an image (JPEG'), (good[:8], 'that are none'), (b'GIF89a', 'that are none'), (b'%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n', 'that are none'),
    (b'<svg xmlns="http://www.w3.org/2000/svg"/>', 'that are none'), (b'II*\x00' + bytes(60), 'that are none'), (encoded(picture(), 'TIFF'), 'that are none'), (bomb(5000, 5000), 'at most 20,000,000 pixels, got 5000 x 5000'),
    (bomb(10_000, 10_000), 'at most 20,000,000 pixels'), (bomb(60_000, 60_000), 'at most 20,000,000 pixels'), (bomb(2 ** 31 - 1, 2 ** 31 - 1), 'at most 20,000,000 pixels'), (bomb(0, 5), 'that are none'),
    (bomb(100, 100), 'an image (JPEG'), (encoded(Image.new('1', (4000, 5000))) + bytes(9), None), (encoded(Image.new('L', (3100, 100))), 'at most 30 times as long as wide')])
def test_images_that_are_refused(client, data, expected):
    answer = client.post('/search/image', **form(data))
    if expected is None: assert answer.status_code == 200
    else: refused(answer, 422, 'image', expected)


def test_forms_that_are_refused(client):
    refused(client.post('/search/image', **form(good, 'photo')), 422, 'image', 'a form with one field')
    refused(client.post('/search/image', **form(good, k='3')), 422, 'image', 'a form with one field')
    refused(client.post('/search/image', data=dict(image=[(io.BytesIO(good), 'a'), (io.BytesIO(good), 'b')]), content_type='multipart/form-data'), 422, 'image', 'a form with one field')
    refused(client.post('/search/image', data=dict(image='a text'), content_type='multipart/form-data'), 422, 'image', 'a form with one field')
    for body in (b'', b'nothing', b'--x\r\n', b'--x\r\nContent-Disposition: form-data; name="image"; filename="a"\r\n\r\nabc'):
        refused(client.post('/search/image', data=body, content_type='multipart/form-data; boundary=x'), 422, 'image')
    refused(client.post('/search/image', data=good, content_type='multipart/form-data'), 422, 'image')  # no boundary
    for kind in (None, 'image/png', 'application/json', 'application/x-www-form-urlencoded', 'x' * 1000):
        refused(client.post('/search/image', data=good, content_type=kind), 415, 'Content-Type', 'multipart/form-data')
    refused(client.post('/search/image?k=0', **form(good)), 422, 'k', f'an integer from 1 to {MOST}'); refused(client.post('/search/image?q=x', **form(good)), 422, 'q', 'one of k')
    assert refused(client.get('/search/image'), 405) and refused(client.post('/search'), 405)


@pytest.mark.parametrize('chunked', [False, True])
def test_an_image_too_large(client, app, chunked):
    most = app.config['MAX_IMAGE_BYTES']
    how = dict(headers={'Transfer-Encoding': 'chunked'}, environ_overrides={'wsgi.input_terminated': True, 'CONTENT_LENGTH': ''}) if chunked else {}
    fits = client.post('/search/image', **form(good + bytes(most - len(good) - 1000)), **how); assert fits.status_code == 200, fits.text
    refused(client.post('/search/image', **form(good + bytes(most)), **how), 413, 'body', f'at most {most:,} bytes')


def test_a_bundle_without_search(without_search):
    assert without_search.get('/healthz').json['search'] is False
    for answer in (without_search.get('/search?q=dress'), without_search.post('/search/image', **form(good))): assert 'no search' in refused(answer, 404)['detail']


@pytest.mark.parametrize('learned', [True, False, None])
def test_a_bundle_whose_towers_learned_nothing_is_searched_by_words(bundle, recommender, tmp_path, learned):
    "A shop without images, whose model was not given weights either. A bundle of before says nothing of it."
    copy = tmp_path / 'bundle'; shutil.copytree(bundle, copy); manifest, facts = read_json(copy / 'manifest.json'), read_json(copy / 'towers.json')
    facts.pop('learned', None); write_json(copy / 'towers.json', facts | ({} if learned is None else dict(learned=learned)))
    manifest['files']['towers.json'] = describe(copy / 'towers.json'); reseal(copy, manifest)
    client = create_app(dict(BUNDLE=str(copy))).test_client(); health = client.get('/healthz').json
    assert health['search'] and health['search_images'] is (learned is not False)
    if learned is not False:
        assert listed(client.get('/search?q=dress').json) == pairs(*(x[0] for x in recommender.search(['dress'])), recommender) and client.post('/search/image', **form(good)).status_code == 200
        return
    assert pairs(*(x[0] for x in recommender.search(['dress'], mode='words')), recommender) == listed(client.get('/search?q=dress').json)
    assert client.get('/search?q=qwertz').json['results'] == []
    for answer in (client.get('/search?q=dress&mode=meaning'), client.post('/search/image', **form(good))): assert refused(answer, 404)['detail'] == UNLEARNED
