"""The grammar of the notebooks, and each notebook against the library that was exported from it."""
import ast, linecache, re, statistics, sys
from pathlib import Path

import nbformat, pytest

ROOT = Path(__file__).parents[1]
NOTEBOOKS = {path.stem: nbformat.read(path, as_version=4) for path in sorted((ROOT / 'nbs').glob('[0-9]*.ipynb'))}
LIGHT = {'core', 'towers', 'retrieval', 'baskets', 'search', 'refine', 'explain', 'bundle'}  # what serving imports
LIGHT_NEEDS = {'numpy', 'onnxruntime', 'faiss', 'tokenizers', 'regex', 'ftfy', 'PIL', 'bm25s', 'Stemmer'}
EXPORTED, HIDDEN = re.compile(r'^#\| *exports?\b', re.M), re.compile(r'^#\| *hide\b', re.M)
each_notebook = pytest.mark.parametrize('name', NOTEBOOKS)


def code(name): return [c for c in NOTEBOOKS[name].cells if c.cell_type == 'code']


def module_of(name):
    "The module that a notebook exports."
    return next((found[1] for c in code(name) if (found := re.search(r'^#\| *default_exp +(\w+)', c.source, re.M))), None)


NUMBER = {module_of(name): int(name[:2]) for name in NOTEBOOKS}
modules = pytest.mark.parametrize('module', [m for m in NUMBER if m])


def python(source):
    "A cell's source, with IPython's magics turned into Python."
    try: ast.parse(source); return source
    except SyntaxError:
        from IPython.core.inputtransformer2 import TransformerManager
        return TransformerManager().transform_cell(source)


@each_notebook
def test_a_stage_has_one_cell_of_parameters_literals_only(name):
    cells = [c for c in code(name) if 'parameters' in c.metadata.get('tags', [])]
    assert len(cells) == (1 if any(re.match('## Run\\b', c.source) for c in NOTEBOOKS[name].cells) else 0)
    for statement in (s for c in cells for s in ast.parse(c.source).body):
        assert isinstance(statement, ast.Assign) and len(statement.targets) == 1, ast.unparse(statement)
        ast.literal_eval(statement.value)
    if cells: assert cells[0].source.startswith("run_dir = ''")


@each_notebook
def test_first_cell_is_a_title_and_a_line_on_what_it_is_for(name):
    lines = NOTEBOOKS[name].cells[0].source.splitlines()
    assert NOTEBOOKS[name].cells[0].cell_type == 'markdown' and re.match('# [A-Z]', lines[0])
    assert any(line.startswith('> ') for line in lines)


@each_notebook
def test_no_star_import_and_nothing_hidden(name):
    for c in code(name):
        assert not HIDDEN.search(c.source), c.source[:200]
        for node in ast.walk(ast.parse(python(c.source))):
            assert not (isinstance(node, ast.ImportFrom) and any(a.name == '*' for a in node.names)), c.source[:200]
            assert not (isinstance(node, ast.Call) and ast.unparse(node.func) == 'nbdev_export'), c.source[:200]


@each_notebook
def test_exported_cells_are_short(name):
    cells = [[line for line in c.source.splitlines() if line.strip() and not line.startswith('#|')] for c in code(name) if EXPORTED.search(c.source)]
    if not cells: return
    longest = max(cells, key=len)
    assert len(longest) <= 60, longest[0]
    assert statistics.median(map(len, cells)) < 20


def imports(module, everywhere):
    "What a module imports, as dotted names: those at its top level, or those in its functions too."
    tree = ast.parse((ROOT / f'recsys_lib/{module}.py').read_text())
    for node in ast.walk(tree) if everywhere else tree.body:
        if isinstance(node, ast.Import): yield from (a.name for a in node.names)
        if isinstance(node, ast.ImportFrom): yield '.'.join(filter(None, ['recsys_lib' if node.level else '', node.module]))


@modules
def test_a_module_imports_only_lower_numbers(module):
    others = {name.split('.')[1] for name in imports(module, everywhere=True) if name.startswith('recsys_lib.')}
    assert all(NUMBER[other] < NUMBER[module] for other in others), others


@modules
def test_the_light_modules_import_little(module):
    if module not in LIGHT: return
    for name in imports(module, everywhere=False):
        top, _, rest = name.partition('.')
        assert rest in LIGHT if top == 'recsys_lib' else top in LIGHT_NEEDS | sys.stdlib_module_names, name


@each_notebook
def test_notebook_runs_against_its_module(name, monkeypatch):
    "The cells that are not exported, with the module's own names in place of the exported cells: a name that the export lacks fails."
    import IPython.display, importlib
    monkeypatch.chdir(ROOT / 'nbs'); monkeypatch.setenv('WANDB_MODE', 'disabled'); monkeypatch.setenv('MPLBACKEND', 'Agg')
    import matplotlib.pyplot as plt
    plt.switch_backend('Agg')
    module = module_of(name)
    names = dict(vars(importlib.import_module(f'recsys_lib.{module}'))) if module else {'__name__': name}
    names['display'] = IPython.display.display
    for i, c in enumerate(NOTEBOOKS[name].cells):
        if c.cell_type != 'code' or EXPORTED.search(c.source) or re.search(r'^#\| *eval: *false', c.source, re.M): continue
        source, place = python(c.source), f'<{name} cell {i}>'
        if 'get_ipython' in source:
            from IPython.core.interactiveshell import InteractiveShell
            names['get_ipython'] = InteractiveShell.instance
        linecache.cache[place] = len(source), None, source.splitlines(keepends=True), place  # for tracebacks and inspect
        exec(compile(source, place, 'exec'), names)
    plt.close('all')
