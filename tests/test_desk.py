"""What a researcher asks of the pipeline besides to run: which parameters there are, how two runs differ, where a stage's time goes."""
import ast, contextlib, importlib.util, json, os, re, subprocess, sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np, pandas as pd, pytest

from recsys_lib.metrics import paired_interval

ROOT = Path(__file__).parents[1]


def dodo(command, **env):
    "Run a command of the pipeline: (exit code, what it printed)."
    base = {k: v for k, v in os.environ.items() if k not in ('DATA', 'PROFILE', 'SEED', 'MAKEFLAGS', 'MAKELEVEL', 'STAGE', 'RUN_A', 'RUN_B')}
    done = subprocess.run([sys.executable, 'dodo.py', command], cwd=ROOT, env=base | env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=120)
    return done.returncode, done.stdout


def module():
    spec = importlib.util.spec_from_file_location('dodo_read', ROOT / 'dodo.py'); read = importlib.util.module_from_spec(spec); spec.loader.exec_module(read)
    return read


# -- make run

def test_a_folder_that_lacks_a_file_or_a_column_is_told_before_any_stage(tmp_path):
    (tmp_path / 'articles.csv').write_text('article_id\n0000000001\n'); (tmp_path / 'transactions_train.csv').write_text('day,customer_id,article_id\n2020-09-01,a,0000000001\n')
    code, text = dodo('run', DATA=str(tmp_path), PROFILE='tiny'); assert code == 2 and 'column t_dat is missing; found day' in text and '> 00_core' not in text and 'Traceback' not in text
    (tmp_path / 'articles.csv').rename(tmp_path / 'products.csv')
    code, text = dodo('run', DATA=str(tmp_path), PROFILE='tiny'); assert code == 2 and 'the folder holds products.csv, transactions_train.csv' in text and '> 00_core' not in text


# -- make params

def test_params_lists_every_parameter_of_every_stage():
    "Against the cells themselves, read another way."
    code, text = dodo('params', PROFILE='tiny')
    assert code == 0, text
    sections = {part.split('\n')[0]: part for part in text.split('\n\n')[1:]}
    for path in sorted((ROOT / 'nbs').glob('[0-9]*.ipynb')):
        cell = next((''.join(c['source']) for c in json.loads(path.read_text())['cells'] if 'parameters' in c['metadata'].get('tags', [])), None)
        names = re.findall(r'^(\w+) = ', cell or '', re.M)
        for name in names:
            if name not in ('run_dir', 'data_dir'): assert re.search(rf'^[* ] {name} ', sections[path.stem], re.M), (path.stem, name)
        assert not names or 'run_dir' not in sections.get(path.stem, '')


def test_every_parameter_says_what_it_is():
    read = module(); silent = [(name, row['parameter']) for name, path in read.notebooks().items() for row in read.described(path) if not row['meaning']]
    assert not silent, silent


def test_every_number_says_its_limits_and_keeps_them():
    read = module()
    for name, path in read.notebooks().items():
        for row in read.described(path):
            said, default = read.limits(row['meaning']), row['default']; numbers = [v for v in (default if isinstance(default, list) else [default]) if type(v) in (int, float)]
            assert bool(said) == bool(numbers or default is None) and all(read.within(v, said) for v in numbers), (name, row)


@pytest.mark.parametrize('said, good, bad', [('1 or more', [1, 1.5, 9], [0, .9, -1, 'x', True, None]), ('above 0, 1 at most', [.1, 1], [0, 1.01]), ('0 or more, below 1', [0, .99], [-.1, 1]), ('whole, 1 or more', [1, 8], [1.0, 0])])
def test_limits(said, good, bad):
    read = module(); assert read.limits(f'so many (of any) rows ({said}); None: all') == said and read.limits('of rows (or more)') == ''
    assert all(read.within(v, said) for v in good) and not any(read.within(v, said) for v in bad)
    with pytest.raises(read.Mistake, match='expected a number, '): read.checked('here', 'name', [good[0]], None, said)


def test_params_tells_type_default_meaning_and_what_the_profile_sets():
    rows = {line[2:].split()[0]: line for line in dodo('params', PROFILE='demo')[1].split('\n40_als\n')[1].split('\n\n')[0].splitlines()[1:]}
    assert rows['factors'].startswith('* ') and re.split(r'  +', rows['factors'][2:]) == ['factors', 'int', '16', '64', 'length of a factor (1 or more)']
    assert rows['half_life'].startswith('  ') and 'days after which' in rows['half_life']
    code, text = dodo('params', PROFILE='demo', SEED='7')
    assert code == 0 and 'SEED=7' in text and re.search(r'^\* seed +int +42 +7', text, re.M)
    code, text = dodo('params', PROFILE='none such')
    assert code == 2 and 'no such profile' in text


# -- make compare

HEAD = {'model': 'two-stage', 'MAP@12': .05, 'MAP@12 low': .04, 'MAP@12 high': .06, 'NDCG@12': .1, 'Recall@12': .2, 'coverage': .3}


def make_run(folder, data='abc', factors=16, map12=.05, seconds=2., code='1', keys=True, test_from='2020-09-16'):
    "A run's folder with four stages, as `stage` and the pipeline leave it."
    def write(path, value): (folder / path).parent.mkdir(parents=True, exist_ok=True); (folder / path).write_text(json.dumps(value))
    record = lambda stage, metrics, tables=None: write(f'records/{stage}.json', dict(stage=stage, params=dict(factors=factors), metrics=metrics, tables=tables or {}, outputs=[], seconds=seconds, peak_mb=100.))
    record('10_data', dict(transactions=1000, reading_seconds=seconds)); record('20_split', dict(horizon=7, test_periods=1, test_from=test_from)); record('40_als', dict(factors=factors))
    record('60_evaluation', {'MAP@12': map12}, dict(headline=[HEAD | {'MAP@12': map12}, HEAD | {'model': 'popularity', 'MAP@12': .01}]))
    write('data/meta.json', dict(fingerprint=data)); write('environment.json', dict(packages=dict(numpy='1' if code == '1' else '2')))
    for stage in ('10_data', '40_als', '60_evaluation') if keys else ():
        write(f'stamps/keys/{stage}.json', dict(code={stage: 'x', 'als': code}, parameter=dict(factors=factors, alpha=1.) if stage == '40_als' else {}, input={}))
    return folder


def test_compare_says_what_differs(tmp_path):
    a, b = make_run(tmp_path / 'a'), make_run(tmp_path / 'b', data='def', factors=64, map12=.0625, seconds=5., code='2', test_from='2020-09-09')
    code, text = dodo('compare', RUN_A=str(a), RUN_B=str(b))
    assert code == 0, text
    assert 'data abc' in text and 'data def' in text and 'the data are not the same' in text and 'the test periods are not the same: A 1 x 7 days from 2020-09-16, B 1 x 7 days from 2020-09-09;' in text
    assert re.search(r'^two-stage +0.05000 \(0.04000 to 0.06000\) +0.06250 \(0.04000 to 0.06000\) +\+0.01250$', text, re.M) and re.search(r'^popularity .* \+0.00000$', text, re.M)
    assert re.search(r"^40_als +factors +16 +64$", text.split('parameters that differ:')[1], re.M) and 'alpha' not in text
    assert 'code that differs: als\n' in text and 'packages that differ: numpy 1 | 2' in text
    assert re.search(r'^all +8.0 +20.0', text, re.M) and 'reading_seconds' not in text


def test_compare_pairs_the_customers(tmp_path):
    "The difference has the interval of a paired bootstrap: of two models that are nearly always of one mind it is narrow, whatever those of their means are."
    a, b = make_run(tmp_path / 'a'), make_run(tmp_path / 'b', map12=.0625); rng = np.random.default_rng(0); user = np.repeat(np.arange(200), 2)
    base = pd.DataFrame({'model': 'two-stage', 'asof': np.tile(['2020-09-16', '2020-09-23'], 200), 'user_idx': user, 'MAP@12': rng.random(400)}); better = base.assign(**{'MAP@12': base['MAP@12'] + rng.random(400) / 50})
    for run, frame in ((a, base), (b, better.sample(frac=1, random_state=0))): (run / 'evaluation').mkdir(); frame.to_parquet(run / 'evaluation/customers.parquet')
    d = better['MAP@12'] - base['MAP@12']; mean, low, high = (v[0] for v in paired_interval(better['MAP@12'].to_numpy(), base[['MAP@12']].to_numpy(), user)); assert np.isclose(mean, d.mean()) and 0 < low < mean < high < .02
    code, text = dodo('compare', RUN_A=str(a), RUN_B=str(b)); assert code == 0 and 'paired, by customer' in text, text
    told = re.search(r'^two-stage .*  \+(0\.\d{5}) \(\+(0\.\d{5}) to \+(0\.\d{5})\)$', text, re.M); assert np.allclose([float(v) for v in told.groups()], [mean, low, high], atol=1e-3), text
    code, text = dodo('compare', RUN_A=str(a), RUN_B=str(make_run(tmp_path / 'other', data='def'))); assert 'paired' not in text


def test_compare_of_a_run_with_itself_finds_nothing(tmp_path):
    a = make_run(tmp_path / 'a')
    code, text = dodo('compare', RUN_A=str(a), RUN_B=str(a))
    assert code == 0 and all(f'{what}: the same' in text for what in ('figures of the stages', 'parameters', 'code', 'packages')) and 'not the same' not in text


def test_compare_needs_no_evaluation_and_no_keys(tmp_path):
    a, b = make_run(tmp_path / 'a', keys=False), make_run(tmp_path / 'b', factors=8, keys=False)
    (b / 'records/60_evaluation.json').unlink()
    code, text = dodo('compare', RUN_A=str(a), RUN_B=str(b))
    assert code == 0 and 'B has no evaluation' in text and re.search(r'^40_als +factors +16 +8$', text.split('parameters that differ:')[1], re.M) and 'code: not known' in text


def test_compare_refuses_what_is_no_run(tmp_path):
    a = make_run(tmp_path / 'a'); (tmp_path / 'empty').mkdir()
    for env, said in ((dict(), 'RUN_A is not given'), (dict(RUN_A=str(a)), 'RUN_B is not given'), (dict(RUN_A=str(a), RUN_B='nowhere'), 'RUN_B=nowhere: no such folder'),
                      (dict(RUN_A=str(tmp_path / 'empty'), RUN_B=str(a)), 'has no records/*.json')):
        code, text = dodo('compare', **env)
        assert code == 2 and text.startswith('error: ') and said in text and len(text.splitlines()) == 1, text
    (a / 'records/40_als.json').write_text('{"half')
    code, text = dodo('compare', RUN_A=str(a), RUN_B=str(a))
    assert code == 2 and 'records/40_als.json' in text


# -- make profile

def test_a_stage_as_a_program_is_the_stage(tmp_path):
    "The program of a stage computes what the stage does, over the module's own lines; run without a profiler."
    read = module()
    script = tmp_path / 'split.py'; script.write_text(read.stage_script(ROOT / 'nbs/35_retrieval.ipynb', dict(n_items=300, batch_sizes=[1, 2], run_dir=str(tmp_path / 'run'))))
    tree = ast.parse(script.read_text())
    assert not [n for n in tree.body if isinstance(n, (ast.FunctionDef, ast.ClassDef))]  # all of those are in the module
    done = subprocess.run([sys.executable, script], cwd=ROOT / 'nbs', env=os.environ | dict(PYTHONPATH=str(ROOT), WANDB_MODE='disabled'), capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    record = json.loads((tmp_path / 'run/records/35_retrieval.json').read_text())
    assert record['params'] == dict(n_items=300, batch_sizes=[1, 2]) and record['metrics']['items'] == 300


@pytest.mark.parametrize('stage', module().notebooks())
def test_every_stage_has_a_program(stage):
    read = module()
    text = read.stage_script(ROOT / f'nbs/{stage}.ipynb', dict(run_dir='x'))
    compile(text, stage, 'exec')
    assert 'with stage(' in text and "run_dir = 'x'" in text


def test_a_trial_leaves_the_run_alone(tmp_path):
    read = module(); run, trial = make_run(tmp_path / 'run'), tmp_path / 'trial'; trial.mkdir()
    (run / 'als').mkdir(); (run / 'als/a.npy').write_text('learned')
    record = json.loads((run / 'records/40_als.json').read_text()); (run / 'records/40_als.json').write_text(json.dumps(record | dict(outputs=['als'])))
    pipeline = read.Pipeline('', 'demo', ''); pipeline.folder = run
    read.trial_of(pipeline, '40_als', trial)
    assert not (trial / 'als').exists() and (trial / 'data').is_symlink() and not (trial / 'records').is_symlink()
    (trial / 'als').mkdir(); (trial / 'als/a.npy').write_text('again'); (trial / 'records/40_als.json').write_text('{}')
    assert (run / 'als/a.npy').read_text() == 'learned' and json.loads((run / 'records/40_als.json').read_text())['outputs'] == ['als']


@pytest.mark.parametrize('stage', ['65_cold', '70_bundle', '75_acceptance'])
def test_a_trial_of_a_finished_run_writes_nothing_into_it(stage, tmp_path):
    "Those that need a graph or a bundle on the disk for a while."
    read = module(); run = ROOT / 'reports/runs/tiny-twin'
    if not (run / f'stamps/{stage}.json').exists(): pytest.skip('`make test` makes the tiny run first')
    state = lambda: {p: p.lstat().st_mtime_ns for p in run.rglob('*') if not {'wandb', 'profile', 'serving'} & set(p.parts)}
    pipeline = read.Pipeline('', 'tiny', '').load(); before = state(); trial = tmp_path / 'trial'; trial.mkdir(); read.trial_of(pipeline, stage, trial)
    script = tmp_path / 'stage.py'; given = pipeline.chosen[stage] | dict(run_dir=str(trial)); script.write_text(read.stage_script(pipeline.notebook[stage], {k: v for k, v in given.items() if k in pipeline.declared[stage]}))
    subprocess.run([sys.executable, script], cwd=ROOT / 'nbs', env=os.environ | dict(PYTHONPATH=str(ROOT)), check=True, capture_output=True, timeout=300)
    assert state() == before and (trial / f'records/{stage}.json').exists()


def test_tuning_writes_the_best_into_the_profile_and_nothing_that_was_not_there(tmp_path, monkeypatch, capsys):
    "What a profile inherits stays inherited, and SEED is of this run alone."
    read = module(); monkeypatch.setattr(read, 'ROOT', tmp_path); monkeypatch.setattr(read, 'run', lambda _: None); monkeypatch.setattr(read, 'alone', lambda _: contextlib.nullcontext())
    (tmp_path / 'nbs/params').mkdir(parents=True); (tmp_path / 'records').mkdir(); profile, given = tmp_path / 'nbs/params/mine.yaml', {}
    (tmp_path / 'records/56_tuning.json').write_text(json.dumps(dict(tables=dict(best=[dict(leaves=9, truncation=30)]))))
    pipeline = SimpleNamespace(folder=tmp_path, profile='mine', chosen={'55_ranking': dict(trees=300, leaves=5, seed=7)}, declared={'55_ranking': dict(trees=40, leaves=15, truncation=20, seed=42), '56_tuning': dict(trees=40, leaves=15, seed=42)}, made=lambda stage, **forced: given.update(forced))
    for before, after in (("extends: hm\n", "extends: hm\n55_ranking: {leaves: 9, truncation: 30}\n"), ("# ours\n55_ranking: {trees: 200, leaves: 5}\n72_batch: {}\n", "# ours\n55_ranking: {trees: 200, leaves: 9, truncation: 30}\n72_batch: {}\n")):
        profile.write_text(before); read.tune(pipeline); assert profile.read_text() == after
    assert given == dict(trials=20, trees=300, leaves=5, seed=7)
    profile.write_text('55_ranking:\n  leaves: 5\n')
    with pytest.raises(read.Mistake, match='expected 55_ranking as one line'): read.tune(pipeline)
    (tmp_path / 'records/56_tuning.json').write_text(json.dumps(dict(tables=dict(best=[dict(leaves=9, truncation=30, lambda_l2=.001)]))))
    pipeline.chosen['55_ranking'] |= dict(leaves=9, truncation=30, lambda_l2=0.)  # which is tried at the edge of what is searched
    profile.write_text(before); read.tune(pipeline); assert profile.read_text() == before and 'nothing found that is better' in capsys.readouterr().out


def test_profile_refuses_what_it_cannot_measure():
    code, text = dodo('profile', STAGE='41_nothing', PROFILE='tiny')
    assert code == 2 and 'STAGE=41_nothing: expected one of' in text


@pytest.mark.skipif(importlib.util.find_spec('scalene') is None, reason='scalene is not in this environment')
def test_profile_names_lines(tmp_path):
    "Of a stage that needs no other."
    code, text = dodo('profile', STAGE='35_retrieval', PROFILE='tiny', WANDB_MODE='disabled')
    assert code == 0, text
    assert re.search(r'^recsys_lib/retrieval\.py:\d+ +\d', text, re.M) and ('lines by memory' in text or 'once more, without the memory' in text)


def test_profile_goes_on_without_the_memory_where_the_profiler_crashes(tmp_path, monkeypatch, capfd):
    "Its stand-in for malloc does at times, and says so with 256 - SIGSEGV or dies of it."
    read = module(); pipeline = read.Pipeline('', 'tiny', ''); pipeline.folder = tmp_path; monkeypatch.setenv('STAGE', '35_retrieval')
    monkeypatch.setattr(read.Pipeline, 'load', lambda self: None); monkeypatch.setattr(pipeline, 'chosen', {'35_retrieval': {}}, raising=False)
    monkeypatch.setattr(pipeline, 'declared', {'35_retrieval': {}}, raising=False); monkeypatch.setattr(read.Pipeline, 'after', lambda self, stage: [])
    monkeypatch.setattr(importlib.util, 'find_spec', lambda name: True)
    monkeypatch.setattr(pipeline, 'stages', ['35_retrieval'], raising=False); monkeypatch.setattr(pipeline, 'notebook', {'35_retrieval': ROOT / 'nbs/35_retrieval.ipynb'}, raising=False)
    asked, code = [], {'--memory': 245, '--cpu-only': 0}
    def crashes(command, **_):
        kind = next(k for k in code if k in command); asked.append(kind)
        line = dict(lineno=1, n_cpu_percent_python=60., n_cpu_percent_c=9., n_peak_mb=0.)
        if not code[kind]: Path(command[command.index('-o') + 1]).write_text(json.dumps(dict(elapsed_time_sec=2., max_footprint_mb=0., files={'recsys_lib/retrieval.py': dict(lines=[line])})))
        return subprocess.CompletedProcess(command, code[kind])
    monkeypatch.setattr(read.subprocess, 'run', crashes)
    read.profile(pipeline); said = capfd.readouterr()
    assert asked == ['--memory', '--cpu-only'] and 'once more, without the memory' in said.err
    assert re.search(r'^recsys_lib/retrieval\.py:1 +69\.0%', said.out, re.M) and 'memory' not in said.out
    code['--memory'] = -11; asked.clear(); read.profile(pipeline); assert len(asked) == 2
    code['--cpu-only'] = 245
    with pytest.raises(read.Mistake, match='ended with code 245 and wrote nothing'): read.profile(pipeline)
    code['--memory'] = 1; asked.clear()  # a mistake of the stage's own is not asked twice
    with pytest.raises(read.Mistake, match='ended with code 1'): read.profile(pipeline)
    assert asked == ['--memory']


# -- make outputs

def test_what_cells_show_is_kept_without_warnings_and_without_what_is_big(tmp_path, monkeypatch):
    import nbformat
    from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook
    read = module(); sources = ["words = 'small'  # a parameter", "import warnings\nprint(words); warnings.warn('not kept')", "'x' * 10 ** 6", '6 * 7']
    notebook = new_notebook(cells=[new_markdown_cell('# A'), *map(new_code_cell, sources)]); notebook.cells[1].metadata['tags'] = ['parameters']; notebook.cells[4].outputs = [nbformat.v4.new_output('stream', text='old')]
    path = tmp_path / '10_a.ipynb'; nbformat.write(notebook, path); monkeypatch.setenv('JUPYTER_PREFER_ENV_PATH', '1')
    read.keep_shown(path, words='given'); kept = nbformat.read(path, as_version=4)
    assert [c.source for c in kept.cells] == [c.source for c in notebook.cells]
    assert [[o.get('text') or o['data']['text/plain'] for o in c.outputs] for c in kept.cells[1:]] == [[], ['given\n'], [], ['42']] and not any(c.execution_count for c in kept.cells[1:])
    code = lambda: read.sha(json.dumps(read.code_of(path)))
    assert kept.metadata['shown'] == code()
    kept.cells[0].source = '# B'; nbformat.write(kept, path); assert kept.metadata['shown'] == code()  # prose changes nothing that is shown
    kept.cells[4].source = '6 * 8'; nbformat.write(kept, path); assert kept.metadata['shown'] != code()


def test_a_notebook_that_fails_while_its_outputs_are_made_is_told_and_left_as_it_was(tmp_path, monkeypatch, capfd):
    import nbformat
    from nbformat.v4 import new_code_cell, new_notebook
    path = tmp_path / '10_a.ipynb'; nbformat.write(new_notebook(cells=[new_code_cell('1 / 0')]), path); before = path.read_bytes(); monkeypatch.setenv('JUPYTER_PREFER_ENV_PATH', '1')
    with pytest.raises(SystemExit) as ended: module().keep_shown(path)
    said = capfd.readouterr().err
    assert ended.value.code == 1 and 'stage 10_a failed in cell [1]' in said and 'ZeroDivisionError' in said and 'papermill' not in said and path.read_bytes() == before


def test_outputs_of_a_notebook_that_is_not_there():
    code, text = dodo('outputs', STAGE='50_feature')
    assert code == 2 and '50_features' in text and 'Traceback' not in text
