"""The how-to notebooks, as a reader runs them: each in a kernel of its own, from an empty cell to a line in the evaluation table."""
import os, re, subprocess, sys
from pathlib import Path

import nbformat, pytest

ROOT = Path(__file__).parents[1]
NOTEBOOKS = {p.stem: nbformat.read(p, as_version=4) for p in sorted((ROOT / 'nbs/howto').glob('*.ipynb'))}
each = pytest.mark.parametrize('name', NOTEBOOKS)


@pytest.fixture(scope='module')
def scratch(tmp_path_factory):
    "A scratch run of their own, which they share: it is drawn and fitted once."
    return tmp_path_factory.mktemp('howto')


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
def test_it_runs(name, scratch, tmp_path):
    env = os.environ | dict(LOOKBOOK_SCRATCH=str(scratch), WANDB_MODE='disabled', MPLBACKEND='Agg', PYTHONPATH=str(ROOT), JUPYTER_PREFER_ENV_PATH='1', OPENBLAS_NUM_THREADS='1')
    done = subprocess.run([sys.executable, '-m', 'nbconvert', '--to', 'notebook', '--execute', f'{name}.ipynb', '--output-dir', str(tmp_path)], cwd=ROOT / 'nbs/howto', env=env, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, re.sub(r'\x1b\[[0-9;]*m', '', done.stderr)[-3000:]
    assert not any(o.output_type == 'error' for c in nbformat.read(tmp_path / f'{name}.ipynb', as_version=4).cells if c.cell_type == 'code' for o in c.outputs)


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
