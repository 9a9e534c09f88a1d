"""The how-to notebooks and the tour, as a reader runs them: each in a kernel of its own, from an empty cell to a line in the evaluation table, or from a raw row to an answer."""
import json, os, re, subprocess, sys
from pathlib import Path

import nbformat, pytest

ROOT = Path(__file__).parents[1]
NOTEBOOKS = {p.stem: nbformat.read(p, as_version=4) for p in sorted((ROOT / 'nbs/howto').glob('*.ipynb'))}
each = pytest.mark.parametrize('name', NOTEBOOKS)


@pytest.fixture(scope='module')
def scratch(new_scratch): return new_scratch()


def test_there_are_three(): assert set(NOTEBOOKS) >= {'add_a_candidate_source', 'add_a_ranking_feature', 'bring_your_own_data'}


@each
def test_a_reader_writes_less_than_forty_lines(name):
    "Checks are ours, not the reader's: cells tagged `check`."
    code = [line for c in NOTEBOOKS[name].cells if c.cell_type == 'code' and 'check' not in c.metadata.get('tags', []) for line in c.source.splitlines() if line.strip() and not line.strip().startswith('#')]
    assert 5 < len(code) < 40


@each
def test_it_asserts_something_and_has_a_title(name):
    cells = NOTEBOOKS[name].cells
    assert re.match('# [A-Z].*\n\n> ', cells[0].source) and any('assert' in c.source for c in cells if 'check' in c.metadata.get('tags', []))


@each
def test_it_runs(name, scratch, tmp_path): executed(ROOT / f'nbs/howto/{name}.ipynb', scratch, tmp_path)


def executed(path, scratch, folder, **given):
    "The notebook, after papermill has run it in its own folder."
    env = os.environ | dict(LOOKBOOK_SCRATCH=str(scratch), WANDB_MODE='disabled', PYTHONPATH=str(ROOT), JUPYTER_PREFER_ENV_PATH='1', OPENBLAS_NUM_THREADS='1')
    command = [sys.executable, '-m', 'papermill', path.name, str(folder / path.name), '--kernel', 'python3', '--no-progress-bar', *[word for name, value in given.items() for word in ('-r', name, str(value))]]
    done = subprocess.run(command, cwd=path.parent, env={k: v for k, v in env.items() if k != 'MPLBACKEND'}, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, re.sub(r'\x1b\[[0-9;]*m', '', done.stderr)[-3000:]
    nb = nbformat.read(folder / path.name, as_version=4); assert not any(o.output_type == 'error' for c in nb.cells if c.cell_type == 'code' for o in c.outputs)
    return nb


TOUR = ROOT / 'nbs/index.ipynb'
WRITTEN = 'data', 'clip', 'search', 'als', 'snapshots', 'features', 'ranking', 'evaluation', 'bundle', 'records'  # by stages


def finished_run():
    "The run that `make test` makes before the tests; '' where there is none."
    bundle = Path(os.environ.get('LOOKBOOK_BUNDLE', ROOT / 'reports/runs/tiny-twin/bundle/current')); run = bundle.parent.parent
    return run if bundle.exists() and (run / 'records/60_evaluation.json').exists() else ''


def test_the_tour_runs_shows_pictures_and_changes_nothing(scratch, tmp_path):
    "Its own cells tagged `check` hold that whatever is recommended was proposed by the sources that are named, and that nothing was known of what came after the date."
    run = finished_run(); state = lambda: {p: p.lstat().st_mtime_ns for part in WRITTEN for p in (run / part).rglob('*')} if run else {}
    before = state(); nb = executed(TOUR, scratch, tmp_path, run_dir=run); assert state() == before
    outputs = [o for c in nb.cells if c.cell_type == 'code' for o in c.outputs]; kinds = [kind for o in outputs for kind in o.get('data', {})]
    drawn = [c for c in nb.cells if c.cell_type == 'code' and c.source.startswith('#| fig-alt: ')]
    assert len(drawn) > 5 and all(any({'image/png', 'image/jpeg'} & set(o.get('data', {})) for o in c.outputs) for c in drawn) and kinds.count('text/html') > 5
    if run:
        assert not any(o.output_type == 'stream' and o.name == 'stderr' for o in outputs)
        headline = json.loads((run / 'records/60_evaluation.json').read_text())['tables']['headline']; said = str(outputs); assert all(row['model'] in said for row in headline)


def test_the_tour_links_every_notebook_and_is_written_in_short_cells():
    cells = nbformat.read(TOUR, as_version=4).cells; links = {link for c in cells if c.cell_type == 'markdown' for link in re.findall(r'\]\(([^)]+)\)', c.source)}
    assert {p.relative_to(TOUR.parent).as_posix() for p in TOUR.parent.glob('**/[!.]*.ipynb') if '.ipynb_checkpoints' not in p.parts} - {TOUR.name} <= links and all((TOUR.parent / link).exists() for link in links)
    for c in cells:
        if c.cell_type == 'code': assert len(c.source.splitlines()) < 14 and 'export' not in c.source
    assert re.match('# [A-Z].*\n\n> ', cells[0].source) and [c.metadata.get('tags') for c in cells].count(['parameters']) == 1


def test_the_tour_that_git_keeps_shows_the_reference_run():
    "`make reports` executes it on the run whose figures the repository quotes."
    cells = [c for c in nbformat.read(TOUR, as_version=4).cells if c.cell_type == 'code']; metrics = json.loads((ROOT / 'reports/metrics.json').read_text()); said = str([c.outputs for c in cells])
    version = metrics['stages']['70_bundle']['metrics']['version']
    assert f"the run: {metrics['run']}" in said and f'bundle {version}:' in said
    assert all(any({'image/png', 'image/jpeg'} & set(o.get('data', {})) for o in c.outputs) for c in cells if c.source.startswith('#| fig-alt: '))


def test_nbdev_renders_no_notebook_over_the_readme():
    from nbdev.config import get_config
    assert not (ROOT / 'nbs' / (name := get_config(path=ROOT).readme_nb)).exists() and name


SOURCE = '''
"A source that nobody else names."
from recsys_lib.retrieval import candidate_source

@candidate_source('by_colour', way='popularity', quota=3)
def by_colour(known): return dict(score=known.arrays['popularity_score'][:1], top=known.arrays['popularity_top'][:1])
'''


def test_a_module_with_a_source_is_found_by_its_name_and_counts_as_code(tmp_path):
    "A copy of the library with one file more: the settings of a snapshot have it, and the pipeline knows that 45_sources depends on it, and that it changed."
    import shutil
    for part in ('recsys_lib', 'nbs'): shutil.copytree(ROOT / part, tmp_path / part, ignore=shutil.ignore_patterns('__pycache__', 'howto'))
    shutil.copy(ROOT / 'dodo.py', tmp_path)
    program = '''
import sys; sys.path.insert(0, '.')
import dodo
from recsys_lib.core import extensions
from recsys_lib.retrieval import RetrievalSettings, with_added
before = dodo.code_of(dodo.ROOT / 'nbs/45_sources.ipynb'); assert 'source_colour' not in before and 'source_colour' not in dodo.code_of(dodo.ROOT / 'nbs/35_retrieval.ipynb')
(dodo.ROOT / 'recsys_lib/source_colour.py').write_text(%r)
dodo.library_modules.cache_clear()  # a run is a process of its own
after = dodo.code_of(dodo.ROOT / 'nbs/45_sources.ipynb'); assert after.items() - before.items() == {('source_colour', after['source_colour'])}
assert [m.__name__ for m in extensions('source_')] == ['recsys_lib.source_colour']
settings = with_added(RetrievalSettings()); assert settings.added == dict(by_colour='popularity') and settings.quota['by_colour'] == 3 and list(settings.quota)[-1] == 'by_colour'
''' % SOURCE
    done = subprocess.run([sys.executable, '-c', program], cwd=tmp_path, env=os.environ | dict(PYTHONPATH=str(tmp_path)), capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
