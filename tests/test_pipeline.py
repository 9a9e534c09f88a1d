"""The pipeline (dodo.py) on small notebooks of three stages: what runs again, what does not, and what is left after a failure or a kill."""
import importlib.util, json, os, shutil, signal, subprocess, sys, time
from pathlib import Path

import nbformat, pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

ROOT = Path(__file__).parents[1]
CORE = '''
"A library of one module."
import json, pathlib
from . import words

class InputError(ValueError): pass

def finish(run_dir, stage, **files):
    "Write files and their record, and note that the stage ran."
    run = pathlib.Path(run_dir)
    for name, text in files.items(): (run / f'{name}.txt').write_text(text)
    (run / 'records').mkdir(exist_ok=True)
    (run / f'records/{stage}.json').write_text(json.dumps(dict(stage=stage, metrics={}, tables={}, seconds=1., peak_mb=1., outputs=[f'{n}.txt' for n in files])))
    with open(run / 'log', 'a') as log: log.write(stage + '\\n')
    print(f'{stage}: 1.0 s, peak memory 1 MiB')
'''
STAGES = {  # name: (parameters, code)
    '10_data': ("rows = 3  # of the file (1 or more)\nrate = .5  # of them (above 0)\nname = None\ndata_dir = ''", "finish(run_dir, '10_data', data='x' * rows, where=data_dir)"),
    '20_split': ('seed = 1\ndays = None  # to predict (whole, 1 or more); None: a week\nshares = [1.0]  # of something (1 at most)', "finish(run_dir, '20_split', split=open(f'{run_dir}/data.txt').read().upper() + str(seed))"),
    '35_retrieval': ('', "finish(run_dir, '35_retrieval')"),
}


class Project:
    "A copy of the pipeline with small notebooks."
    def __init__(self, root): self.root, self.run_folder = root, root / 'reports/runs/demo-twin'

    def make(self):
        for folder in ('nbs/params', 'recsys_lib'): (self.root / folder).mkdir(parents=True)
        shutil.copy(ROOT / 'dodo.py', self.root)
        for name, text in {'nbs/params/demo.yaml': '', 'nbs/params/hm.yaml': '', 'recsys_lib/__init__.py': '', 'recsys_lib/core.py': CORE,
                           'recsys_lib/words.py': 'hello = 1\n'}.items(): (self.root / name).write_text(text)
        for stage, (parameters, code) in STAGES.items():
            nb = new_notebook(cells=[new_markdown_cell(f'# {stage}'), new_code_cell('from recsys_lib.core import InputError, finish'),
                new_code_cell("run_dir = ''\n" + parameters, metadata=dict(tags=['parameters'])), new_code_cell(code)])
            nbformat.write(nb, self.root / f'nbs/{stage}.ipynb')
        return self

    def edit(self, file, old, new):
        "Replace a piece of a file; of a notebook, in the source of its cells."
        path = self.root / file
        text = path.read_text(); old, new = (json.dumps(t)[1:-1] for t in (old, new)) if file.endswith('.ipynb') else (old, new)
        assert old in text; path.write_text(text.replace(old, new))

    def environment(self, **given):
        base = {k: v for k, v in os.environ.items() if k not in ('DATA', 'PROFILE', 'SEED', 'MAKEFLAGS', 'MAKELEVEL', 'CI')}
        return base | dict(WANDB_MODE='disabled') | given

    def start(self, command='run', before=(), **env):
        hears = lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)  # what was started in the background passes on that it ignores ^C
        return subprocess.Popen([*before, sys.executable, 'dodo.py', command], cwd=self.root, env=self.environment(**env), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, preexec_fn=hears)

    def run(self, command='run', **env):
        "Run to the end: (exit code, what was printed, the stages that ran)."
        log = self.run_folder / 'log'; log.unlink(missing_ok=True)
        process = self.start(command, **env)
        text, _ = process.communicate(timeout=300)  # a machine may be busy
        return process.returncode, text, log.read_text().split() if log.exists() else []

    def has(self, *names): return [(self.run_folder / name).exists() for name in names]


@pytest.fixture(scope='module')
def finished(tmp_path_factory):
    project = Project(tmp_path_factory.mktemp('finished')).make()
    code, text, ran = project.run()
    assert (code, ran) == (0, ['10_data', '20_split', '35_retrieval']), text
    assert '10_data: 1.0 s, peak memory 1 MiB' in text and '3 stages run, 0 fresh' in text
    return project


@pytest.fixture
def project(finished, tmp_path):
    "A project whose run is complete."
    return Project(Path(shutil.copytree(finished.root, tmp_path / 'project')))


def dodo(project):
    "The pipeline's module, in a project."
    spec = importlib.util.spec_from_file_location('dodo', project.root / 'dodo.py'); module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def wait_for(condition, seconds=120):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, 'nothing happened'
        time.sleep(.05)


def alive(pid):
    try: return 'State:\tZ' not in Path(f'/proc/{pid}/status').read_text() if Path('/proc').exists() else os.kill(pid, 0) is None
    except (FileNotFoundError, ProcessLookupError): return False


def test_stamp_lists_outputs_only(project):
    stamp = json.loads((project.run_folder / 'stamps/10_data.json').read_text())
    assert stamp.keys() == {'stage', 'outputs'} and stamp['outputs'].keys() == {'data.txt', 'where.txt'}
    assert project.has('10_data.ipynb', '10_data.partial.ipynb', '10_data.failed.ipynb') == [True, False, False]


def test_nothing_changed_or_only_prose(project):
    assert project.run()[2] == []
    project.edit('nbs/10_data.ipynb', '# 10_data', '# The data, in other words')
    project.edit('nbs/10_data.ipynb', "finish(run_dir, '10_data'", "# a comment\nfinish(run_dir,   '10_data'")
    project.edit('nbs/10_data.ipynb', 'rows = 3', 'rows = 3  # how many')
    project.edit('recsys_lib/core.py', 'A library of one module.', 'A small library.')
    project.edit('recsys_lib/core.py', 'def finish', '# %% ../nbs/00_core.ipynb #4eab0978\ndef finish')
    code, text, ran = project.run()
    assert (code, ran) == (0, []) and '0 stages run, 3 fresh' in text


def test_code_edit_reruns_downstream_only_if_outputs_change(project):
    project.edit('nbs/10_data.ipynb', "'x' * rows", "'x' + 'x' * (rows - 1)")
    code, text, ran = project.run()
    assert ran == ['10_data'] and '> 10_data, 1 of 3 (code 10_data changed)' in text
    project.edit('nbs/10_data.ipynb', "'x' + 'x'", "'y' + 'x'")
    assert project.run()[2] == ['10_data', '20_split'] and (project.run_folder / 'split.txt').read_text() == 'YXX1'


def test_a_stage_finds_what_it_wrote_only_if_code_and_parameters_are_the_same(project):
    found = lambda: (project.run_folder / 'found.txt').read_text()
    project.edit('nbs/20_split.ipynb', "finish(run_dir, '20_split', ", "import os; finish(run_dir, '20_split', found=str(os.path.exists(f'{run_dir}/split.txt')), ")
    assert project.run()[2] == ['20_split'] and found() == 'False'  # the code changed
    (project.root / 'nbs/params/demo.yaml').write_text('10_data: {rows: 4}\n')
    assert project.run()[2] == ['10_data', '20_split'] and found() == 'True'  # only the input did
    assert project.run(SEED='8')[2] == ['20_split'] and found() == 'False'  # a parameter did


def test_an_edited_module_reruns_those_that_import_it(project):
    project.edit('nbs/35_retrieval.ipynb', 'from recsys_lib.core import InputError, finish', '%pwd\nfrom recsys_lib.core import finish')
    assert project.run()[2] == ['35_retrieval']
    project.edit('recsys_lib/words.py', '1', '2')  # which core imports
    assert project.run()[2] == ['10_data', '20_split', '35_retrieval']


def test_parameters(project):
    (project.root / 'nbs/params/demo.yaml').write_text('common: {seed: 7}\n10_data: {rate: 1}\n')
    code, text, ran = project.run()
    assert ran == ['10_data', '20_split'] and 'parameter seed: 1 is now 7' in text and (project.run_folder / 'split.txt').read_text() == 'XXX7'
    assert project.run(SEED='8')[2] == ['20_split']
    assert project.run(SEED='eight')[:2] == (2, 'error: SEED=eight: expected a whole number, 0 or more\n')


def test_a_deleted_output_is_made_again(project):
    (project.run_folder / 'data.txt').unlink()
    code, text, ran = project.run()
    assert ran == ['10_data'] and 'data.txt is gone' in text and project.has('data.txt') == [True]


def test_failure(project):
    project.edit('nbs/10_data.ipynb', "'x' * rows", "'y' * rows")
    project.edit('nbs/20_split.ipynb', 'finish(run_dir', "if seed == 1: raise KeyError('no such colour')\nfinish(run_dir")
    code, text, ran = project.run()
    assert (code, ran) == (1, ['10_data'])
    assert 'stage 20_split failed in cell' in text and "KeyError: 'no such colour'" in text and '20_split.failed.ipynb' in text
    assert project.has('20_split.failed.ipynb', '20_split.ipynb', '20_split.partial.ipynb', 'stamps/20_split.json') == [True, False, False, False]
    project.edit('nbs/20_split.ipynb', 'if seed == 1', 'if seed == 2')
    assert project.run()[2] == ['20_split'] and project.has('20_split.failed.ipynb', '20_split.ipynb') == [False, True]


def test_a_users_mistake_is_one_line(project):
    project.edit('nbs/10_data.ipynb', 'finish(run_dir', "raise InputError('articles.csv: no column article_id')\nfinish(run_dir")
    code, text, ran = project.run()
    assert (code, ran) == (2, []) and text.splitlines()[1:] == ['stage 10_data: articles.csv: no column article_id']
    assert project.has('10_data.failed.ipynb', 'stamps/10_data.json') == [True, False]


def test_an_output_that_is_not_there(project):
    project.edit('nbs/35_retrieval.ipynb', "'35_retrieval')", "'35_retrieval', a='')\nimport os; os.remove(f'{run_dir}/a.txt')")
    code, text, _ = project.run()
    assert code == 1 and 'a.txt' in text and project.has('stamps/35_retrieval.json') == [False]


def test_a_killed_kernel(project):
    project.edit('nbs/20_split.ipynb', 'finish(run_dir', 'import os; os.kill(os.getpid(), 9)\nfinish(run_dir')
    code, text, _ = project.run()
    assert code == 1 and 'stage 20_split failed' in text and 'its process ended' in text
    assert project.has('20_split.failed.ipynb', 'stamps/20_split.json') == [True, False]


def test_a_full_disk(project):
    "Says so, keeps nothing that was cut off, and goes on from there when there is room."
    def mount(*options): return subprocess.run(['mount', '-t', 'tmpfs', '-o', ','.join(options), 'tmpfs', project.run_folder.parent], capture_output=True).returncode == 0
    if not mount('size=400k'): pytest.skip('a small disk can be made by root only')
    try:
        project.edit('nbs/20_split.ipynb', 'finish(run_dir', "print('x' * 200_000); open(f'{run_dir}/large', 'w').write('x' * 1_000_000)\nfinish(run_dir")
        code, text, ran = project.run()
        assert (code, ran) == (2, ['10_data']) and text.splitlines()[-1] == 'stage 20_split: no room left on the disk of reports/runs/demo-twin; free some, and `make run` goes on with this stage'
        assert project.has('20_split.ipynb', '20_split.partial.ipynb', 'stamps/20_split.json', 'stamps/10_data.json') == [False, False, False, True]
        assert all(json.loads(p.read_text()) for p in project.run_folder.glob('*.ipynb'))
        (project.run_folder / 'large').unlink(); assert mount('remount', 'size=8m')
        assert project.run()[::2] == (0, ['20_split', '35_retrieval'])
    finally: subprocess.run(['umount', '--lazy', project.run_folder.parent], check=True)


def test_what_is_said_of_a_failure_asks_for_no_room_itself(project, monkeypatch, tmp_path):
    "Where every disk is full there is not even a folder for temporary files; and the run's folder may be gone."
    module, full = dodo(project), OSError(28, 'No space left on device')
    def refused(): raise FileNotFoundError(2, "No usable temporary directory found in ['/tmp', '/var/tmp']")
    monkeypatch.setattr('tempfile.gettempdir', refused)
    assert module.no_room(project.run_folder, full).startswith('no room left on the disk') and module.no_room(tmp_path / 'gone', KeyError('x')) == ''
    monkeypatch.setattr('shutil.disk_usage', lambda place: shutil._ntuple_diskusage(9, 9, 0))
    assert module.no_room(project.run_folder, refused).startswith('no room left on the disk of reports/runs/demo-twin;')


@pytest.mark.parametrize('victim', ['pipeline', 'make'])
def test_kill_in_mid_stage_then_resume(project, victim):
    "SIGKILL of the pipeline, or of the make above it, ends the kernel, leaves no stamp, and the next run goes on from there."
    slow = "import os, pathlib, time; pathlib.Path(f'{run_dir}/pid').write_text(f'{os.getpid()} {os.getppid()}'); time.sleep(60)\n"
    project.edit('nbs/10_data.ipynb', "'x' * rows", "'y' * rows")
    project.edit('nbs/20_split.ipynb', 'finish(run_dir', slow + 'finish(run_dir')
    made = dict(before=('sh', '-c', '"$@"; exit $?', 'sh'), MAKELEVEL='1') if victim == 'make' else {}
    process, pid = project.start(**made), project.run_folder / 'pid'
    wait_for(lambda: pid.exists() and len(pid.read_text().split()) == 2)
    kernel, pipeline = map(int, pid.read_text().split())
    assert (process.pid == pipeline) == (victim == 'pipeline')
    code, text, _ = project.run()
    assert code == 2 and 'another `make run` is at work' in text
    os.kill(process.pid, signal.SIGKILL); process.wait()
    wait_for(lambda: not alive(pipeline) and not alive(kernel), 60)
    assert project.has('20_split.partial.ipynb', 'stamps/20_split.json', 'stamps/10_data.json') == [True, False, True]
    project.edit('nbs/20_split.ipynb', slow, '')
    assert project.run()[2] == ['20_split'] and project.has('20_split.partial.ipynb') == [False]


def test_data_folders_never_share(project, tmp_path):
    folders = []
    for parent in ('a', 'b'):
        data = tmp_path / parent / 'week'; data.mkdir(parents=True); (data / 'articles.csv').write_text('article_id\n')
        folders.append(project.run('folder', DATA=str(data))[1].strip())
    assert len({*folders, 'reports/runs/demo-twin'}) == 3 and all(f.startswith('reports/runs/hm-week-') for f in folders)
    assert project.run('folder', DATA=os.path.relpath(data, project.root) + '/')[1].strip() == folders[1]
    project.run_folder = project.root / folders[1]
    assert project.run(DATA=str(data))[2] == ['10_data', '20_split', '35_retrieval'] and (project.run_folder / 'where.txt').read_text() == str(data)
    (data / 'articles.csv').write_text('article_id\n1\n')
    assert project.run(DATA=str(data))[2] == ['10_data']
    assert project.run(DATA=str(data / 'none'))[:2] == (2, f"error: DATA={data / 'none'}: no such folder; expected one with the files of articles and transactions\n")


def test_side_by_side(project):
    "Two stages that wait for each other end only if they run at the same time."
    for me, other in (('10_data', '35_retrieval'), ('35_retrieval', '10_data')):
        meet = f"import os, time; open(f'{{run_dir}}/{me}.here', 'w'); end = time.time() + 20\nwhile not os.path.exists(f'{{run_dir}}/{other}.here'): assert time.time() < end; time.sleep(.05)\n"
        project.edit(f'nbs/{me}.ipynb', 'finish(run_dir', meet + 'finish(run_dir')
    code, text, ran = project.run(MAKEFLAGS=' -j2 --jobserver-auth=3,4')
    assert code == 0 and sorted(ran) == ['10_data', '35_retrieval'], text


def test_jobs(project):
    jobs = dodo(project).jobs
    assert [jobs(f) for f in ('', ' -j2 --jobserver-auth=3,4', 'ks -j3', ' --no-print-directory -- DATA=/j4', '-j', 'kj')] == [1, 2, 3, 1, os.cpu_count(), os.cpu_count()]


@pytest.mark.parametrize('text, message', [
    ('30_clap: {seed: 1}', '30_clap is not a stage'),
    ('10_data: {row: 3}', '10_data: row is not a parameter of nbs/10_data.ipynb'),
    ('common: {sead: 3}', 'common: sead is not a parameter of any stage'),
    ("10_data: {rows: '3'}", "10_data: rows is '3' (str), expected int"),
    ('10_data: {rows: true}', '10_data: rows is True (bool), expected int'),
    ('10_data: {rate: 1e-3}', "10_data: rate is '1e-3' (str), expected float"),
    ('10_data: {rows: 0}', '10_data: rows is 0, expected a number, 1 or more'), ('10_data: {rate: 0}', 'rate is 0, expected a number, above 0'), ('common: {rate: -1.5}', 'common: rate is -1.5, expected'),
    ('20_split: {days: 1.5}', '20_split: days is 1.5, expected a number, whole, 1 or more'), ('20_split: {days: week}', "20_split: days is 'week', expected a number"),
    ('20_split: {shares: [.5, 2]}', '20_split: shares is [0.5, 2], expected numbers, each 1 at most'), ('20_split: {shares: []}', '20_split: shares is [], expected numbers'),
    ('10_data: {run_dir: x}', '10_data: run_dir is set by the pipeline'),
    ('extends: none', 'extends: none: no such profile; there is demo, hm'), ('extends: demo', 'extends: demo: expected the name of another profile'), ('extends: {a: 1}', 'expected the name of another profile'),
    ('10_data: 3', '10_data: expected `parameter: value` lines'), ('[1', 'not valid YAML'), ('3', 'expected sections')])
def test_a_wrong_profile_is_told_by_file_and_key(project, text, message):
    (project.root / 'nbs/params/demo.yaml').write_text(text)
    module = dodo(project)
    with pytest.raises(module.Mistake) as mistake: module.Pipeline('', '', '').load()
    assert str(mistake.value).startswith('nbs/params/demo.yaml: ') and message in str(mistake.value)


def test_a_right_profile(project):
    (project.root / 'nbs/params/demo.yaml').write_text('common: {rows: 1, seed: 2}\n10_data: {rate: 1, rows: 5, name: x}\n20_split: {days: null, shares: [.5, -1]}\n')
    assert dodo(project).Pipeline('', '', '').load().chosen == {'10_data': dict(rows=5, rate=1, name='x'), '20_split': dict(seed=2, days=None, shares=[.5, -1]), '35_retrieval': {}}
    assert project.run(PROFILE='none')[:2] == (2, 'error: PROFILE=none: no such profile; there is demo, hm\n')


def test_a_profile_extends_another_parameter_by_parameter(project, tmp_path):
    params = project.root / 'nbs/params'; module = dodo(project); load = lambda data='': module.Pipeline(data, 'shop', '').load()
    (params / 'hm.yaml').write_text('10_data: {rate: 2, rows: 5}\n20_split: {seed: 4}\n'); (params / 'demo.yaml').write_text('extends: hm\ncommon: {seed: 9}\n10_data: {name: y}\n')
    (params / 'shop.yaml').write_text('extends: demo\n10_data: {rows: 7}\n')
    assert load().chosen['10_data'] == dict(rate=2, rows=7, name='y') and load().chosen['20_split'] == dict(seed=4) and load(str(tmp_path)).at_test_size() == []
    (params / 'shop.yaml').write_text('10_data: {rows: 7}\n'); assert load(str(tmp_path)).at_test_size() == ['20_split'] and load().at_test_size() == []
    assert '20_split at the size of the notebooks' in project.run(DATA=str(tmp_path), PROFILE='shop')[1]
    (params / 'hm.yaml').write_text('extends: shop\n'); (params / 'shop.yaml').write_text('extends: hm\n')
    with pytest.raises(module.Mistake, match='expected the name of another profile'): load()


@pytest.mark.parametrize('command, setting', [('tune', 'TRIALS'), ('peers', 'TRIALS'), ('peers', 'LIMIT')])
def test_a_count_that_is_none_is_told_before_anything_runs(project, command, setting):
    for text in ('x', '0', '-1', '2.5'): assert project.run(command, **{setting: text})[:2] == (2, f'error: {setting}={text}: expected a whole number of at least 1\n')


def test_a_lost_tag_is_an_error(project):
    path = project.root / 'nbs/10_data.ipynb'; path.write_text(path.read_text().replace('"parameters"', ''))
    code, text, _ = project.run()
    assert (code, text) == (2, 'error: nbs/10_data.ipynb: expected one cell tagged `parameters`, found 0\n')


def test_links_and_folders_as_outputs(project, tmp_path):
    module = dodo(project)
    (tmp_path / 'bundle/v1').mkdir(parents=True); (tmp_path / 'bundle/v1/a').write_text('a'); (tmp_path / 'bundle/current').symlink_to('v1')
    assert module.files_under(tmp_path, 'bundle') == ['bundle/current', 'bundle/v1/a'] and module.content(tmp_path / 'bundle/current') == '-> v1'


def test_bench_and_clean(project):
    code, text, _ = project.run('bench')
    assert code == 0 and text.split('\n')[1].split() == ['10_data', '1.0', '1']
    assert project.run('clean')[:2] == (0, 'removed reports/runs/demo-twin\n') and not project.run_folder.exists()
    assert project.run('bench')[0] == 2


def track_by(project, what):
    "Put something in the place of recsys_lib.tracking."
    (project.root / 'recsys_lib/tracking.py').write_text(f'import os, sys, time\ndef follow(folder):\n    {what}\n'); project.edit('dodo.py', 'patience = 60', 'patience = 1')


def test_stages_are_named_to_a_process_that_tracks_them(project):
    "Those that failed too; all of one `make run` have one group."
    track_by(project, 'for line in sys.stdin: open(folder + "/told", "a").write(os.environ["WANDB_RUN_GROUP"] + " " + line)')
    project.edit('nbs/20_split.ipynb', 'finish(run_dir', 'raise KeyError\nfinish(run_dir'); assert project.run(WANDB_MODE='offline')[0] == 1
    project.edit('nbs/20_split.ipynb', 'raise KeyError\n', ''); project.edit('nbs/35_retrieval.ipynb', 'from', '1\nfrom'); code, text, ran = project.run(WANDB_MODE='offline')
    groups, stages = zip(*[line.rsplit(' ', 1) for line in (project.run_folder / 'told').read_text().splitlines()])
    assert code == 0 and 'tracking' not in text and stages == ('20_split', *ran) and len(ran) == 2 and groups[0] != groups[1] == groups[2] and all(g.startswith('demo-twin 20') for g in groups)


@pytest.mark.parametrize('what, expected', [('raise OSError("no network")', 'its process ended with code 1 (reports/runs/demo-twin/wandb/tracking.log)'), ('time.sleep(60)', 'still sending after 1 s'), ('os.kill(os.getpid(), 9)', 'its process ended with code -9')])
def test_tracking_never_fails_a_run(project, what, expected):
    track_by(project, what); project.edit('nbs/20_split.ipynb', 'from', '1\nfrom')
    code, text, ran = project.run(WANDB_MODE='offline')
    assert code == 0 and ran == ['20_split'] and f'tracking: {expected}' in text


def test_nobody_has_to_wait_for_tracking(project):
    "The first ^C ends the wait, in one line; what is being sent is sent."
    track_by(project, 'open(folder + "/begun", "w").close()\n    while not os.path.exists(folder + "/go"): time.sleep(.05)\n    open(folder + "/sent", "w").close()'); project.edit('dodo.py', 'patience = 1', 'patience = 30')
    project.edit('nbs/35_retrieval.ipynb', 'from', '1\nfrom'); process = project.start(WANDB_MODE='offline')
    for line in process.stdout:
        if line.startswith('run: '): break  # the last that it says
    wait_for(lambda: project.has('begun') == [True]); time.sleep(3); process.send_signal(signal.SIGINT)  # it waits by now
    code = process.wait(120); (project.run_folder / 'go').touch(); text = process.stdout.read()  # the other process has it too, so it ends with that
    assert code == 0 and text.splitlines()[-1] == 'tracking goes on without being waited for' and 'Traceback' not in text and project.has('sent') == [True]
