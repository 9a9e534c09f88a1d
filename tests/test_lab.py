"""`make lab` in a copy of the repository, asked as JupyterLab's page asks: what is saved is exported, a mistake costs neither the save nor the module, and what was trusted stays so."""
import json, os, shutil, signal, subprocess, sys, time, urllib.error, urllib.request
from pathlib import Path

import nbformat, pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

ROOT = Path(__file__).parents[1]
MODULE = '20_split'  # any that has few cells
SHOWN = new_output('display_data', {'text/html': '<script>1</script>'})  # what Jupyter shows of a trusted notebook only


def copy_of(folder):
    "What `make lab` needs, with two notebooks, one of which carries an output that has to be trusted."
    for name in ('.jupyter', 'recsys_lib'): shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns('__pycache__', '.ipynb_checkpoints'))
    for name in ('Makefile', 'settings.ini', '.pre-commit-config.yaml', f'nbs/{MODULE}.ipynb'): (folder / name).parent.mkdir(exist_ok=True); shutil.copy2(ROOT / name, folder / name)
    (folder / '.venv').symlink_to(sys.prefix)
    (folder / 'nbs/howto').mkdir(); nbformat.write(new_notebook(cells=[new_markdown_cell('# How'), new_code_cell('1', outputs=[SHOWN])]), folder / 'nbs/howto/how.ipynb')
    return folder


def environment(folder):
    "Nothing of the user's own Jupyter or git, nor of the `make` that runs the tests; a kernel of the user's that has the environment's name."
    kernel = folder / 'data/kernels/python3/kernel.json'; kernel.parent.mkdir(parents=True); kernel.write_text(json.dumps(dict(argv=['false'], display_name='another', language='python')))
    own = dict(HOME=folder, JUPYTER_CONFIG_DIR=folder / 'config', JUPYTER_DATA_DIR=folder / 'data', JUPYTER_RUNTIME_DIR=folder / 'runtime', IPYTHONDIR=folder / 'ipython', GIT_CONFIG_GLOBAL='/dev/null', GIT_CONFIG_SYSTEM='/dev/null')
    return {k: v for k, v in os.environ.items() if not k.startswith(('MAKE', 'MFLAGS', 'JUPYTER', 'GIT_'))} | {k: str(v) for k, v in own.items()}


class Lab:
    "A running `make lab`, and its log."
    def __init__(self, folder, aside):
        self.log, self.runtime = aside / 'log', aside / 'runtime'
        options = '--no-browser --allow-root --ServerApp.ip=127.0.0.1 --IdentityProvider.token=sesame'
        with open(self.log, 'w') as log:  # -o: the environment is there, whatever its time says
            self.process = subprocess.Popen(['make', '-o', '.venv/.ready', '-o', '.venv/.exported', 'lab', f'LAB={options}'], cwd=folder, env=environment(aside), stdout=log, stderr=log, start_new_session=True)

    def __enter__(self):
        "Waits for the address, which a Jupyter server writes down before it listens there, and then for an answer."
        until = time.monotonic() + 300
        while not self.answers():
            assert self.process.poll() is None and time.monotonic() < until, self.said()
            time.sleep(.05)
        return self

    def answers(self):
        if not (found := [f for f in self.runtime.glob('jpserver-*.json') if f.stat().st_size]): return False
        self.url = json.loads(found[0].read_text())['url']
        try: return bool(self.ask('GET', 'status'))
        except urllib.error.URLError as why:
            if isinstance(why.reason, ConnectionRefusedError): return False
            raise

    def __exit__(self, *_):
        if self.process.poll() is None: os.killpg(self.process.pid, signal.SIGKILL)  # its own session: what this test started, and nothing else
        self.process.wait()

    def ask(self, method, address, body=None):
        request = urllib.request.Request(f'{self.url}api/{address}', None if body is None else json.dumps(body).encode(), {'Authorization': 'token sesame', 'Content-Type': 'application/json'}, method=method)
        with urllib.request.urlopen(request, timeout=60) as answer: return json.loads(answer.read() or 'null')

    def open(self, name): return self.ask('GET', f'contents/{name}')['content']
    def save(self, name, content): return self.ask('PUT', f'contents/{name}', dict(type='notebook', format='json', content=content))
    def said(self): return self.log.read_text()


def trusted(content): return {c['metadata'].get('trusted') for c in content['cells'] if c['cell_type'] == 'code'} == {True}


@pytest.fixture(scope='module')
def lab(tmp_path_factory):
    folder = copy_of(tmp_path_factory.mktemp('lab') / 'lookbook')
    with Lab(folder, tmp_path_factory.mktemp('aside')) as running: running.folder = folder; yield running


def exported(content): return next(c for c in content['cells'] if c['source'].startswith('#| export\n') and 'def enough' in c['source'])


def test_a_folder_without_git_opens_with_its_notebooks_trusted_and_the_environments_kernel(lab):
    assert 'not a git checkout' in lab.said() and not (lab.folder / '.git').exists()
    assert all(trusted(lab.open(name)) for name in (f'{MODULE}.ipynb', 'howto/how.ipynb'))
    assert lab.ask('GET', 'kernelspecs')['kernelspecs']['python3']['spec']['argv'][0] != 'false'


def test_what_is_saved_is_exported_and_keeps_its_outputs_and_its_trust(lab):
    module, name = lab.folder / f'recsys_lib/{MODULE[3:]}.py', f'{MODULE}.ipynb'; before, content = module.read_text(), lab.open(name)
    exported(content)['source'] += '\n\ndef saved_in_the_lab(): return 42'
    content['cells'].append(new_code_cell('1', outputs=[SHOWN], metadata=dict(trusted=True)))  # as the page says of what was executed in it
    lab.save(name, content)
    after = module.read_text(); assert after.count('saved_in_the_lab') == 2  # and in __all__
    assert after.replace(", 'saved_in_the_lab'", '').replace('\n\ndef saved_in_the_lab(): return 42', '') == before
    kept = lab.open(name); assert trusted(kept) and kept['cells'][-1]['outputs'][0]['data'] == SHOWN.data
    kept['cells'].append(new_code_cell('2', outputs=[SHOWN])); lab.save(name, kept)
    assert not trusted(lab.open(name))  # what came from elsewhere is not trusted because it was saved
    lab.save(name, content)


@pytest.mark.parametrize('broken, told', [('\ndef f(: pass', "SyntaxError: invalid syntax: def f(: pass"), ('\nreturn 1', "SyntaxError: 'return' outside function: return 1")])
def test_a_mistake_is_saved_and_told_and_the_module_stays(lab, broken, told):
    module, name = lab.folder / f'recsys_lib/{MODULE[3:]}.py', f'{MODULE}.ipynb'; before, content = module.read_text(), lab.open(name); good = exported(content)['source']
    exported(content)['source'] = good + broken; lab.save(name, content)
    at = next(i for i, c in enumerate(content['cells'], 1) if c['source'].endswith(broken))
    assert exported(lab.open(name))['source'] == good + broken and module.read_text() == before
    assert f'{name}: saved, but not exported: cell {at}: {told}' in lab.said()
    exported(content)['source'] = good + '\n\nmended = 1'; lab.save(name, content); assert 'mended' in module.read_text()
    exported(content)['source'] = good; lab.save(name, content); assert module.read_text() == before
    assert not list((lab.folder / 'recsys_lib').glob('.*'))


def test_copies_and_notes_are_saved_and_not_exported(lab):
    modules = lambda: {p.name: p.read_text() for p in (lab.folder / 'recsys_lib').glob('*.py')}
    before, content = modules(), lab.open(f'{MODULE}.ipynb'); exported(content)['source'] += '\n\nof_a_copy = 1'
    lab.save(f'{MODULE}-Copy1.ipynb', content); assert f'{MODULE}-Copy1.ipynb: saved, but not exported: {MODULE[3:]}.py is exported from {MODULE}.ipynb' in lab.said()
    lab.save('Untitled.ipynb', new_notebook(cells=[new_code_cell('#| export\nnowhere = 1')])); assert 'Untitled.ipynb: saved, but not exported' in lab.said() and 'default_exp' in lab.said()
    lab.save('howto/how.ipynb', content); lab.save('note.ipynb', new_notebook(cells=[new_code_cell('1 +')]))
    lab.ask('PUT', 'contents/note.txt', dict(type='file', format='text', content='x'))
    assert modules() == before and 'Traceback' not in lab.said()


def test_hooks_are_set_up_in_a_checkout(tmp_path):
    folder, env = copy_of(tmp_path / 'lookbook'), environment(tmp_path / 'aside')
    def run(*command): return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=True).stdout
    hooks = 'make', '-o', '.venv/.ready', 'hooks'
    run('git', 'init', '-q', str(tmp_path)); assert 'not a git checkout' in run(*hooks) and not (tmp_path / '.git/hooks/pre-commit').exists()  # the one above is somebody else's
    run('git', 'init', '-q'); run(*hooks)
    assert run('git', 'config', 'merge.nbdev-merge.driver').startswith('.venv/bin/nbdev_merge') and 'pre-commit' in (folder / '.git/hooks/pre-commit').read_text()
