"""Notebooks that two people edited, merged by git with the driver that `make hooks` sets: what comes out is a notebook."""
import json, os, shutil, subprocess, sys
from pathlib import Path

import nbformat, pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

ROOT = Path(__file__).parents[1]


@pytest.fixture
def repository(tmp_path):
    "A repository with one notebook on main, and the driver as the Makefile sets it."
    def git(*args, fails=False):
        env = os.environ | dict(GIT_CONFIG_GLOBAL='/dev/null', GIT_AUTHOR_NAME='a', GIT_AUTHOR_EMAIL='a@example', GIT_COMMITTER_NAME='a', GIT_COMMITTER_EMAIL='a@example')
        done = subprocess.run(['git', *args], cwd=tmp_path, env=env, capture_output=True, text=True)
        assert fails or done.returncode == 0, done.stdout + done.stderr
        return done.returncode
    git('init', '-q', '-b', 'main'); shutil.copy(ROOT / '.gitattributes', tmp_path)
    line = next(line for line in (ROOT / 'Makefile').read_text().splitlines() if 'merge.nbdev-merge.driver' in line)
    driver = line.split("driver '")[1].split("'")[0]
    git('config', 'merge.nbdev-merge.driver', driver.replace('.venv/bin', str(Path(sys.executable).parent)))
    cells = [new_markdown_cell('# A notebook'), *[new_code_cell(f'x{i} = {i}\nprint(x{i})', id=f'cell{i}') for i in range(4)]]
    nbformat.write(new_notebook(cells=cells), tmp_path / 'a.ipynb')
    git('add', '.'); git('commit', '-qm', 'base')
    return tmp_path, git


def edit(folder, git, branch, cell, source, count):
    "On a branch of its own from main: change a cell, and what executing left in all of them."
    git('checkout', '-q', '-b', branch, 'main')
    nb = nbformat.read(folder / 'a.ipynb', as_version=4)
    nb.cells[cell].source = source
    for c in nb.cells[1:]: c.execution_count = count; c.outputs = [nbformat.v4.new_output('stream', text=f'{branch}\n')]
    nbformat.write(nb, folder / 'a.ipynb'); git('commit', '-qam', branch)


def test_edits_of_different_cells_merge(repository):
    folder, git = repository
    edit(folder, git, 'ours', 1, 'x0 = 10\nprint(x0)', 5); edit(folder, git, 'theirs', 4, 'x3 = 30\nprint(x3)', 9)
    git('merge', 'ours', '-m', 'both', fails=True)
    nb = nbformat.read(folder / 'a.ipynb', as_version=4); nbformat.validate(nb); text = (folder / 'a.ipynb').read_text()
    assert [c.source for c in nb.cells] == ['# A notebook', 'x0 = 10\nprint(x0)', 'x1 = 1\nprint(x1)', 'x2 = 2\nprint(x2)', 'x3 = 30\nprint(x3)'] and '<<<<<<<' not in text


def test_edits_of_the_same_cell_end_in_a_notebook_that_shows_both(repository):
    folder, git = repository
    edit(folder, git, 'ours', 2, 'x1 = 11\nprint(x1)', 5); edit(folder, git, 'theirs', 2, 'x1 = 12\nprint(x1)', 9)
    assert git('merge', 'ours', '-m', 'both', fails=True) != 0  # a person decides
    json.loads((folder / 'a.ipynb').read_text())
    nb = nbformat.read(folder / 'a.ipynb', as_version=4); nbformat.validate(nb)
    sources = [c.source for c in nb.cells]
    assert 'x1 = 11\nprint(x1)' in sources and 'x1 = 12\nprint(x1)' in sources and any('<<<<<<<' in s for s in sources) and any('>>>>>>>' in s for s in sources)
