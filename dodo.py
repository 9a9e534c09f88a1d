"""The pipeline behind `make run`: one doit task per stage notebook, executed by papermill.

A stage is fresh while its code, parameters and inputs are what they were and its outputs exist. doit holds the graph, the
order and what runs side by side; freshness is kept here, because doit writes its own state only when it ends, and a run that
was killed would forget the stages that it had finished. Settings come from the environment: DATA, PROFILE, SEED.
"""
import ast, atexit, fcntl, hashlib, importlib.util, json, linecache, os, re, shutil, signal, subprocess, sys, threading, time
from functools import cache
from pathlib import Path

# Which stage comes after which. A notebook that is not there is left out; one that is there needs a row.
AFTER = {
    '00_core':       [],
    '05_twin':       [],                    # only where no DATA folder is given
    '10_data':       ['05_twin'],           # or the raw files in DATA
    '15_explore':    ['10_data'],
    '20_split':      ['10_data'],
    '30_clip':       ['10_data'],
    '35_retrieval':  [],
    '36_baskets':    [],
    '37_search':     ['10_data', '30_clip'],
    '40_als':        ['10_data', '20_split'],
    '42_linear':     ['10_data', '20_split', '40_als'],
    '45_sources':    ['10_data', '20_split', '30_clip', '40_als'],
    '47_complements': ['10_data', '20_split', '30_clip', '45_sources'],
    '50_features':   ['45_sources'],
    '55_ranking':    ['10_data', '20_split', '45_sources', '50_features'],
    '56_tuning':     ['20_split', '55_ranking'],  # searches nothing, unless `make tune` asks for it
    '60_evaluation': ['10_data', '20_split', '45_sources', '50_features', '55_ranking'],
    '62_ablation':   ['10_data', '20_split', '45_sources', '50_features', '55_ranking', '60_evaluation'],
    '64_peers':      ['10_data', '20_split', '45_sources', '55_ranking', '60_evaluation'],  # and the lists of `make peers`, which asks for it again
    '65_cold':       ['10_data', '20_split', '30_clip', '40_als', '45_sources', '50_features', '55_ranking'],
    '67_diversity':  ['10_data', '20_split', '30_clip', '45_sources', '50_features', '55_ranking', '60_evaluation'],
    '70_bundle':     ['10_data', '20_split', '30_clip', '37_search', '45_sources', '47_complements', '50_features', '55_ranking', '60_evaluation'],  # whose metrics its manifest tells
    '72_batch':      ['10_data', '20_split', '45_sources', '50_features', '55_ranking', '70_bundle'],
    '75_acceptance': ['60_evaluation', '70_bundle'],
    '78_service':    ['10_data', '70_bundle'],
    '90_report':     [...],                 # all of the others, and their executed notebooks
}
PIPELINE_SETS = 'run_dir', 'data_dir'  # parameters that no profile may set
ROOT = Path(__file__).resolve().parent
DOIT_CONFIG = dict(backend='sqlite3', dep_file=':memory:', verbosity=2)  # doit's own state is not used: see above


class Mistake(Exception):
    "Something that the person at the keyboard can mend; told in one line, exit code 2."


# -- notebooks and profiles

def code_cells(path):
    "The code cells of a notebook: (source, tags)."
    cells = json.loads(path.read_text())['cells']
    return [(''.join(c['source']), c['metadata'].get('tags', [])) for c in cells if c['cell_type'] == 'code']


def notebooks():
    "The stage notebooks, by name: those named NN_*.ipynb with a cell tagged `parameters`."
    found = {}
    for path in sorted((ROOT / 'nbs').glob('[0-9][0-9]_*.ipynb')):
        n = sum('parameters' in tags for _, tags in code_cells(path))
        if n == 0 and path.stem not in AFTER: continue
        # papermill only warns of a lost tag, and the defaults would win
        if n != 1: raise Mistake(f"nbs/{path.name}: expected one cell tagged `parameters`, found {n}")
        if path.stem not in AFTER: raise Mistake(f"nbs/{path.name} is a stage without a row in AFTER (dodo.py)")
        found[path.stem] = path
    return found


def described(path):
    "The parameters that a notebook declares, as rows: name, type, default, and what its comment says of it, with the unit."
    import io, tokenize
    source = next(source for source, tags in code_cells(path) if 'parameters' in tags)
    said = {t.start[0]: t.string.lstrip('# ') for t in tokenize.generate_tokens(io.StringIO(source).readline) if t.type == tokenize.COMMENT}
    nodes = {n.targets[0].id: n for n in ast.parse(source).body if isinstance(n, ast.Assign)}; values = {name: ast.literal_eval(n.value) for name, n in nodes.items()}
    return [dict(parameter=name, type='any' if value is None else type(value).__name__, default=value, meaning=said.get(nodes[name].end_lineno, '')) for name, value in values.items()]


LIMITS = {  # what a parameter's comment may say of the number, in brackets, with commas between: (whole, 1 or more), (above 0, 1 at most)
    r'whole': lambda value, _: type(value) is int,
    r'above ([\d.]+)': lambda value, bound: value > bound,
    r'below ([\d.]+)': lambda value, bound: value < bound,
    r'([\d.]+) or more': lambda value, bound: value >= bound,
    r'([\d.]+) at most': lambda value, bound: value <= bound,
}


def limits(meaning):
    "The limits that a parameter's comment names, as text; '' if it names none."
    one = '|'.join(LIMITS); found = re.search(rf'\(((?:{one})(?:, (?:{one}))*)\)', meaning)
    return found[1] if found else ''


def within(value, said):
    "Whether something is a number within `limits`."
    if type(value) not in (int, float): return False
    return all(holds(value, float(found[1]) if found.re.groups else None) for part in said.split(', ') for limit, holds in LIMITS.items() if (found := re.fullmatch(limit, part)))


def checked(where, key, value, default, said=''):
    "A profile's value, if it is of the default's type and within its limits, as each entry of a list is. A whole number will do for a float; where the default is None, any type will."
    expected = type(default)
    if not (default is None or type(value) is expected or (expected is float and type(value) is int)):
        raise Mistake(f"{where}: {key} is {value!r} ({type(value).__name__}), expected {expected.__name__} as in the default {default!r}")
    if not said or value is None is default: return value
    numbers = value if isinstance(default, list) else [value]
    if not numbers or not all(within(n, said) for n in numbers): raise Mistake(f"{where}: {key} is {value!r}, expected {'numbers, each' if isinstance(default, list) else 'a number,'} {said}")
    return value


def sections_of(profile, asked, heirs=()):
    "A profile's sections: its own over those of the profile that it `extends`, parameter by parameter."
    import yaml
    path = ROOT / 'nbs/params' / f'{profile}.yaml'
    if not path.exists(): raise Mistake(f"{asked}: no such profile; there is {', '.join(sorted(p.stem for p in path.parent.glob('*.yaml')))}")
    where = f'nbs/params/{path.name}'
    try: sections = yaml.safe_load(path.read_text()) or {}
    except yaml.YAMLError as e: raise Mistake(f"{where}: not valid YAML ({' '.join(str(e).split())})") from None
    if not isinstance(sections, dict): raise Mistake(f"{where}: expected sections, each a stage's name or `common`")
    base = sections.pop('extends', None); sections = {name: section or {} for name, section in sections.items()}
    if base is not None and (not isinstance(base, str) or base in (profile, *heirs)): raise Mistake(f"{where}: extends: {base}: expected the name of another profile that does not extend this one")
    for name, section in sections.items():
        if not isinstance(section, dict): raise Mistake(f"{where}: {name}: expected `parameter: value` lines")
    if base is None: return sections
    under = sections_of(base, f'{where}: extends: {base}', (profile, *heirs))
    return {name: under.get(name, {}) | sections.get(name, {}) for name in {**under, **sections}}


def parameters(profile, declared, said):
    "What a profile sets, by stage: the stage's own section over `common`. `said` are the limits of each stage's parameters."
    where, sections = f'nbs/params/{profile}.yaml', sections_of(profile, f'PROFILE={profile}')
    for name, section in sections.items():
        if name != 'common' and name not in declared: raise Mistake(f"{where}: {name} is not a stage; expected `common`, `extends` or one of {', '.join(declared)}")
        known = set().union(*declared.values()) if name == 'common' else set(declared[name])
        for key in section:
            if key in PIPELINE_SETS: raise Mistake(f"{where}: {name}: {key} is set by the pipeline, not by a profile")
            if key not in known: raise Mistake(f"{where}: {name}: {key} is not a parameter of {'any stage' if name == 'common' else f'nbs/{name}.ipynb'}")
    return {stage: {key: checked(f'{where}: {name}', key, value, own[key], said[stage][key]) for name in ('common', stage)
                    for key, value in sections.get(name, {}).items() if key in own} for stage, own in declared.items()}


# -- what a stage's freshness rests on

def sha(text):
    "SHA-256 of a text."
    return hashlib.sha256(text.encode()).hexdigest()


@cache  # by text: a module is imported by many notebooks
def meaning(source):
    "Source without comments, layout and docstrings, so that an edit of prose changes nothing. Text that is not Python, as it is."
    try: tree = ast.parse(source)
    except SyntaxError: return source
    for node in ast.walk(tree):
        if isinstance(getattr(node, 'body', None), list):
            node.body = [n for n in node.body if not (isinstance(n, ast.Expr) and isinstance(n.value, ast.Constant) and isinstance(n.value.value, str))]
    return ast.dump(tree)


@cache
def library_modules(source):
    "The modules of recsys_lib that a source imports, as files."
    try: tree = ast.parse(source)
    except SyntaxError: tree = ast.parse('\n'.join(line for line in source.splitlines() if re.match(r'\s*(from|import) ', line)))
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import): names |= {a.name for a in node.names}
        if isinstance(node, ast.ImportFrom):
            package = '.'.join(filter(None, ['recsys_lib' if node.level else '', node.module]))
            names |= {package} | {f'{package}.{a.name}' for a in node.names}
    paths = {ROOT / f"{name.replace('.', '/')}.py" for name in names if name.startswith('recsys_lib.')}
    for node in ast.walk(tree):  # what registers itself is found by how its name begins: see `core.extensions`
        if isinstance(node, ast.Call) and getattr(node.func, 'id', '') == 'extensions' and node.args and isinstance(node.args[0], ast.Constant): paths |= set(ROOT.glob(f'recsys_lib/{node.args[0].value}*.py'))
    return {path for path in paths if path.exists()}


def tables_of(folder):
    "Size and time of all files below a folder that may hold rows, images apart: file -> text."
    found = {}
    for place, folders, names in os.walk(folder):
        if Path(place) == folder: folders[:] = [f for f in folders if f != 'images']
        for path in (Path(place, n) for n in names if n.lower().endswith(('.csv', '.csv.gz', '.parquet'))):
            about = path.stat(); found[str(path.relative_to(folder))] = f'{about.st_size} bytes, {about.st_mtime_ns}'
    return found


@cache  # a hundred thousand of them are asked about once: several stages and their freshness depend on it
def images_of(folder):
    "What changes with any of the images: how many, how large, the newest."
    about = [e.stat() for place, _, _ in os.walk(folder / 'images') for e in os.scandir(place) if e.is_file()]
    return f'{len(about)} files, {sum(a.st_size for a in about)} bytes, {max((a.st_mtime_ns for a in about), default=0)}'


def code_of(path):
    "Hashes of the code that a notebook runs: its own cells, and the library modules that these import, directly or not."
    sources = [source for source, tags in code_cells(path) if 'parameters' not in tags]  # parameters count by value
    own = re.search(r'^#\| *default_exp +(\w+)', '\n'.join(sources), re.M)
    hashes, waiting = {path.stem: sha('\n'.join(map(meaning, sources)))}, set().union(*map(library_modules, sources))
    while waiting:
        module = waiting.pop()
        if module.stem in hashes or own and module.stem == own[1]: continue  # the notebook defines its own module itself
        source = module.read_text()
        hashes[module.stem] = sha(meaning(source)); waiting |= library_modules(source)
    return hashes


def files_under(root, path):
    "The files of an output, a file or a folder, relative to the run. Links are listed, not followed."
    full = root / path
    if full.is_symlink() or not full.is_dir(): return [str(path)]
    found = [Path(folder, name) for folder, folders, names in os.walk(full) for name in names + folders]
    return sorted(str(f.relative_to(root)) for f in found if f.is_symlink() or f.is_file())


def content(path):
    "What identifies a file: SHA-256 of its bytes; for a link, where it leads."
    if path.is_symlink(): return f'-> {os.readlink(path)}'
    with open(path, 'rb') as f: return hashlib.file_digest(f, 'sha256').hexdigest()


def read(path):
    "JSON of a file, or None."
    try: return json.loads(path.read_text())
    except (FileNotFoundError, ValueError): return None


def write(path, value):
    "Write JSON under a temporary name, then rename."
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f'.{path.name}.partial')
    partial.write_text(json.dumps(value, indent=1, sort_keys=True) + '\n'); partial.replace(path)


# -- a run

class Tracker:
    """Names the stages that have ended to a process that tells Weights & Biases (nbs/92_tracking.ipynb): broken, slow or without a network, that costs the pipeline a line.
    All that one `make` runs is one group. WANDB_MODE=disabled starts nothing."""
    patience = 60  # s that the end of the pipeline waits for what is still being sent
    def __init__(self, folder): self.folder, self.log, self.process, self.lock = folder, folder / 'wandb/tracking.log', None, threading.Lock()

    def start(self):
        self.log.parent.mkdir(parents=True, exist_ok=True)
        group = os.environ.get('WANDB_RUN_GROUP') or f"{self.folder.name} {time.strftime('%Y-%m-%d %H:%M:%S')}"
        with open(self.log, 'w') as log: self.process = subprocess.Popen([sys.executable, '-c', 'import sys; from recsys_lib.tracking import follow; follow(sys.argv[1])', str(self.folder)],
            stdin=subprocess.PIPE, stderr=log, text=True, env=os.environ | {'WANDB_RUN_GROUP': group}, start_new_session=True)  # ^C is for the pipeline; it ends when nobody names stages any more
        atexit.register(self.close)

    def tell(self, stage):
        if os.environ.get('WANDB_MODE') == 'disabled': return
        with self.lock:
            try:
                if not self.process: self.start()
                print(stage, file=self.process.stdin, flush=True)
            except OSError: pass  # it has ended: `close` says so

    def close(self):
        try: self.process.stdin.close()
        except OSError: pass
        try: code = self.process.wait(self.patience)
        except KeyboardInterrupt: return say('\ntracking goes on without being waited for', sys.stderr)
        except subprocess.TimeoutExpired: os.killpg(self.process.pid, signal.SIGKILL); code = 'none'; self.process.wait()
        if code: say(f"tracking: {f'still sending after {self.patience} s' if code == 'none' else f'its process ended with code {code} ({shown(self.log)})'}; `wandb sync --include-online` in {shown(self.folder)} sends what is there", sys.stderr)


class Pipeline:
    "One profile on one dataset: its folder, its stages and their parameters."
    def __init__(self, data, profile, seed):
        self.data = Path(os.path.abspath(os.path.expanduser(data))) if data else None
        self.profile, self.seed = profile or ('hm' if data else 'demo'), seed
        dataset = f'{self.data.name}-{sha(str(self.data))[:6]}' if data else 'twin'
        self.folder = ROOT / 'reports/runs' / f'{self.profile}-{dataset}'
        self.tracker = Tracker(self.folder)

    def load(self):
        "Read notebooks and profile. Raises `Mistake` before anything runs."
        if self.data and not self.data.is_dir(): raise Mistake(f"DATA={self.data}: no such folder; expected one with the files of articles and transactions")
        found = notebooks()
        rows = {name: described(path) for name, path in found.items()}; declared = {name: {r['parameter']: r['default'] for r in own} for name, own in rows.items()}
        chosen = parameters(self.profile, declared, {name: {r['parameter']: limits(r['meaning']) for r in own} for name, own in rows.items()})
        if self.seed:
            if not self.seed.isdigit(): raise Mistake(f"SEED={self.seed}: expected a whole number, 0 or more")
            for name in found: chosen[name].update({'seed': int(self.seed)} if 'seed' in declared[name] else {})
        self.stages = [name for name in AFTER if name in found and not (self.data and name == '05_twin')]
        self.notebook, self.declared, self.chosen = found, declared, chosen
        return self

    def at_test_size(self):
        "The stages that hm.yaml gives another size for real data and this run's profile does not."
        if not self.data or not (ROOT / 'nbs/params/hm.yaml').exists(): return []
        mine = sections_of(self.profile, self.profile)
        return [stage for stage in sections_of('hm', 'hm') if stage in self.stages and AFTER[stage] and not mine.get(stage)]  # what comes after nothing does not see the data

    def after(self, stage):
        "The stages that a stage waits for, as far as they are part of this run."
        names = self.stages[:-1] if AFTER[stage] == [...] else AFTER[stage]
        return [name for name in names if name in self.stages and name != stage]

    def stamp(self, stage): return self.folder / 'stamps' / f'{stage}.json'
    def key_file(self, stage): return self.folder / 'stamps/keys' / f'{stage}.json'

    def key(self, stage):
        "All that a stage's result depends on. The run's own folder does not count: a run may be moved."
        inputs = {name: content(self.stamp(name)) for name in self.after(stage) if self.stamp(name).exists()}
        if AFTER[stage] == [...]: inputs |= {f'{n}.ipynb': content(self.folder / f'{n}.ipynb') for n in self.after(stage) if (self.folder / f'{n}.ipynb').exists()}
        if self.data and stage == '10_data':
            inputs |= tables_of(self.data)
        if self.data and stage in ('10_data', '30_clip'): inputs['images'] = images_of(self.data)
        values = {k: v for k, v in (self.declared[stage] | self.chosen[stage]).items() if k not in PIPELINE_SETS}
        if self.data and 'data_dir' in self.declared[stage]: values['data_dir'] = str(self.data)
        return json.loads(json.dumps(dict(code=code_of(self.notebook[stage]), parameter=values, input=inputs), default=str))

    def why(self, stage):
        "Why a stage has to run, in a few words; '' if it is fresh."
        stamp, old, new = read(self.stamp(stage)), read(self.key_file(stage)), self.key(stage)
        if not stamp or not old: return 'not made yet'
        for path in stamp['outputs']:
            if not os.path.lexists(self.folder / path): return f'{path} is gone'
        for kind in new:
            for name in sorted(old[kind].keys() | new[kind].keys()):
                a, b = old[kind].get(name), new[kind].get(name)
                if a != b: return f'parameter {name}: {a!r} is now {b!r}' if kind == 'parameter' else f'{kind} {name} changed'
        return '' if (self.folder / f'{stage}.ipynb').exists() else f'{stage}.ipynb is gone'

    def discard(self, stage):
        "Remove what a stage wrote. A stage whose inputs changed may build on that; one whose code or parameters did may not."
        for output in (read(self.folder / f'records/{stage}.json') or {}).get('outputs', []):
            path = self.folder / output
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink(missing_ok=True)

    def run_stage(self, stage, **forced):
        """Execute a stage's notebook. Its stamp goes first and comes last, so a run that is killed leaves none.
        What is `forced` on top of the profile does not count for its freshness."""
        from doit.exceptions import TaskError, TaskFailed
        why, key, old = self.why(stage) or 'asked for', self.key(stage), read(self.key_file(stage))
        if old and any(old[kind] != key[kind] for kind in ('code', 'parameter')): self.discard(stage)
        partial, done, failed = (self.folder / f'{stage}{kind}.ipynb' for kind in ('.partial', '', '.failed'))
        for old in (self.stamp(stage), self.key_file(stage), self.folder / f'records/{stage}.json', failed): old.unlink(missing_ok=True)
        given = self.chosen[stage] | forced | {'run_dir': str(self.folder)} | ({'data_dir': str(self.data)} if self.data else {})
        say(f'> {stage}, {self.stages.index(stage) + 1} of {len(self.stages)} ({why})')
        lines = Lines(stage)
        try:
            execute(self.notebook[stage], partial, {k: v for k, v in given.items() if k in self.declared[stage]}, cwd=ROOT / 'nbs', stdout_file=lines)
            outputs = [f for o in (read(self.folder / f'records/{stage}.json') or {}).get('outputs', []) for f in files_under(self.folder, o)]
            stamp = dict(stage=stage, outputs={f: content(self.folder / f) for f in outputs})
            write(self.key_file(stage), key); partial.replace(done); write(self.stamp(stage), stamp)
        except Exception as error:
            done.unlink(missing_ok=True); full = no_room(self.folder, error)
            if partial.exists(): partial.replace(failed) if read(partial) else partial.unlink()  # it may have been cut off
            message, mistake = (f'stage {stage}: {full}', True) if full else explain(stage, error, failed)
            say(message, sys.stderr); self.tracker.tell(stage)
            return (TaskError if mistake else TaskFailed)(message, report=False)  # doit's exit codes 2 and 1
        say(lines.last or f'{stage}: done'); self.tracker.tell(stage)

    def made(self, stage, **forced):
        "Execute a stage by itself; the program ends where that fails, as a run does: with 2 for a user's mistake, else with 1."
        from doit.exceptions import TaskError
        if failure := self.run_stage(stage, **forced): sys.exit(2 if isinstance(failure, TaskError) else 1)

    def tasks(self):
        "The stages as doit tasks."
        for stage in self.stages:
            yield dict(basename=stage, actions=[(self.run_stage, [stage])], task_dep=self.after(stage), io={'capture': False},
                       uptodate=[(lambda stage=stage: not self.why(stage),)], doc=f'nbs/{stage}.ipynb')


# -- what a person sees

def say(text, file=None):
    "Print a line above the progress bars."
    from tqdm import tqdm
    file = file or sys.stdout
    tqdm.write(text, file=file); file.flush()


def execute(notebook, into, given, **more):
    "Execute a notebook by papermill, with a bar over its cells."
    import papermill
    papermill.execute_notebook(notebook, into, given, kernel_name='python3', language='python', progress_bar=bar(notebook.stem), extra_arguments=['--log-level=CRITICAL'], **more)


def bar(stage):
    "Papermill's progress over the cells: a bar on a terminal; in a log, a line now and then."
    text = dict(desc=f'  {stage}', leave=False, bar_format='{desc} {bar} cell {n_fmt} of {total_fmt}, {elapsed}')
    if sys.stderr.isatty(): return text
    return text | dict(bar_format='{desc}: cell {n_fmt} of {total_fmt}, {elapsed}', file=Log(), position=0, delay=10, mininterval=10)


class Log:
    "A file for tqdm that is not a terminal: each state of the bar is a line."
    def flush(self): sys.stderr.flush()
    def write(self, text):
        if text.strip(): sys.stderr.write(text.strip('\r') + '\n')


class Lines:
    "What a notebook prints: lines `<stage>: ...` are shown as they come, but for the one that ends the stage, which is kept."
    def __init__(self, stage): self.stage, self.rest, self.last = stage, '', ''
    def flush(self): pass
    def write(self, text):
        *lines, self.rest = (self.rest + text).split('\n')
        for line in lines:
            if not line.startswith(f'{self.stage}: '): continue
            if ' s, peak memory ' in line: self.last = line
            else: say(line)


def explain(stage, error, failed=None):
    "What a person needs to know of a failure: (message, whether it is their mistake)."
    name = getattr(error, 'ename', type(error).__name__)
    if name == 'InputError': return f'stage {stage}: {error.evalue}', True
    where, lines = f'stage {stage} failed', [f'{name}: {error}']
    if hasattr(error, 'traceback'):
        where += f' in cell [{error.exec_count}]'
        text = re.sub(r'\x1b\[[0-9;]*m', '', '\n'.join(error.traceback)).rstrip()
        lines = ['    | ' + line for line in error.source.splitlines()[:4]] + ['    ...'] * (len(error.source.splitlines()) > 4) + text.splitlines()[-12:]
    elif name == 'DeadKernelError': lines = ['its process ended (killed, or out of memory)']
    if failed and failed.exists(): lines.append(f'all of it: {failed.relative_to(ROOT)}')
    return '\n'.join([where, *lines]), False


def no_room(folder, error):
    "What to say if a stage failed because a disk is full, whatever its libraries made of that; '' otherwise."
    import tempfile
    places = [folder]
    try: places.append(Path(tempfile.gettempdir()))
    except OSError: pass  # it tries to write, which full disks refuse
    short = [place for place in places if place.exists() and shutil.disk_usage(place).free < 2 ** 20]
    if not short and 'No space left on device' not in str(error): return ''
    return f"no room left on the disk{f' of {shown(short[0])}' if short else ''}; free some, and `make run` goes on with this stage"


def show(rows, left=()):
    "Print a table, a list of dicts with the same keys. The first column, and those named, are set to the left; what is long in the others is cut."
    text = lambda name, v: f'{v:.4f}' if isinstance(v, float) else '' if v is None else f'{v}' if name in left or len(f'{v}') <= 60 else f'{v}'[:59] + '…'
    cells = [list(rows[0])] + [[text(*pair) for pair in row.items()] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells)]
    for row in cells: print('  '.join(f'{c:<{w}}' if i == 0 or name in left else f'{c:>{w}}' for i, (c, w, name) in enumerate(zip(row, widths, rows[0]))).rstrip())


def shown(path):
    "A path as a person would type it from the repository."
    return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else str(path)


def failure_report(pipeline):
    "Render what there is: the page of the stage that failed shows its error, and the rest stays readable."
    if '90_report' in pipeline.stages and any(pipeline.folder.glob('*.failed.ipynb')):
        from recsys_lib.core import Run
        from recsys_lib.report import render_run
        try: render_run(Run(pipeline.folder))
        except OSError as error: return say(f'no report of the failure: {error}', sys.stderr)
        say(f"report of the failure: {shown(pipeline.folder / 'index.html')}", sys.stderr)


def results(pipeline):
    "The headline table, and where to go from here."
    record = read(pipeline.folder / 'records/60_evaluation.json')
    if record and record['tables'].get('headline'):
        from recsys_lib.report import ahead_text, headline_text
        print(f"\n{headline_text(record['tables']['headline'])}")
        if said := ahead_text({'60_evaluation': record, '64_peers': read(pipeline.folder / 'records/64_peers.json')}): print(f'\n{said}')
    same = ''.join(f' {k}={os.environ[k]}' for k in ('DATA', 'PROFILE') if os.environ.get(k))
    index = pipeline.folder / 'index.html'
    print(f"\nrun:     {shown(pipeline.folder)}")
    if index.exists(): print(f"report:  {shown(index)}")
    if (pipeline.folder / 'bundle/current').exists(): print(f"serve:   make serve{same}")


# -- commands

def whole(name, default):
    "A setting of the environment that is a whole number of at least 1."
    text = os.environ.get(name) or str(default)
    if not re.fullmatch('0*[1-9][0-9]*', text): raise Mistake(f'{name}={text}: expected a whole number of at least 1')
    return int(text)


def jobs(flags):
    "How many stages side by side: make's -j, as it stands in MAKEFLAGS."
    found = re.search(r'(?:^| )-?\w*j(\d*)(?= |$)', flags.split(' -- ')[0])
    return 1 if not found else int(found[1]) if found[1] else os.cpu_count()


def end_with_parent():
    "End when make does, even if it is killed; the kernels then end themselves, for they watch this process."
    parent = os.getppid()
    def watch():
        while os.getppid() == parent: time.sleep(.5)
        os._exit(137)
    threading.Thread(target=watch, daemon=True).start()


def alone(folder):
    "Hold a run's folder while this process lives: two runs of the same stages would write the same files."
    try: folder.mkdir(parents=True, exist_ok=True); lock = open(folder / '.lock', 'a')
    except OSError as error: raise Mistake(f"{shown(folder)}: cannot be written in ({error.strerror})") from None
    if not os.access(folder, os.W_OK): raise Mistake(f"{shown(folder)}: cannot be written in")
    try: fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError: raise Mistake(f"{shown(folder)}: another `make run` is at work there") from None
    if any(folder.glob('*.partial.ipynb')): time.sleep(2)  # a run was killed: its kernel looks once a second, and ends
    return lock


def reporter():
    "doit's reporter without its lines: the stages speak for themselves."
    from doit.reporter import ZeroReporter
    class Quiet(ZeroReporter):
        fresh = 0
        def skip_uptodate(self, task): Quiet.fresh += 1
    return Quiet


def task_stages():
    "For the doit command line: `PROFILE=tiny doit list`."
    yield from from_environment().load().tasks()


def from_environment(): return Pipeline(*(os.environ.get(name, '') for name in ('DATA', 'PROFILE', 'SEED')))


# Warnings that speak to the authors of libraries: that tqdm finds no widgets, torch's of itself and pandera's of pandas would stand on page after page of the reports.
NOT_FOR_US = 'ignore:IProgress not found', 'ignore:`isinstance(treespec', 'ignore:Downcasting object dtype arrays:FutureWarning:pandera.backends.ibis.base'


def environment():
    "What the kernels inherit."
    os.environ['PYTHONWARNINGS'] = ','.join([*NOT_FOR_US, *filter(None, [os.environ.get('PYTHONWARNINGS')])])
    os.environ['OPENBLAS_NUM_THREADS'] = '1'  # implicit asks for it: its own threads and BLAS's get in each other's way
    os.environ.setdefault('OMP_WAIT_POLICY', 'passive')  # threads that wait for each other must not spin: where other work runs beside, that costs ten times what it saves
    os.environ['LOOKBOOK_TRACKS'] = 'pipeline'  # the stages leave it to `Tracker`
    os.environ['JUPYTER_PREFER_ENV_PATH'] = '1'  # the kernel named python3 is this environment's, not the user's
    os.environ['PYTHONPATH'] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get('PYTHONPATH')]))  # this checkout's library
    if 'MAKELEVEL' in os.environ: end_with_parent()


def look_at_data(pipeline):
    "Whether somebody's own files are there and have the columns that the layout gives, before a stage spends its time. Raises `Mistake`."
    if not pipeline.data or not (ROOT / 'recsys_lib/data.py').exists() or not pipeline.why('10_data'): return
    from recsys_lib.core import InputError
    from recsys_lib.data import Layout, check_layout
    try: check_layout(pipeline.data, Layout.from_profile(pipeline.chosen['10_data'].get('layout') or {}))
    except InputError as e: raise Mistake(str(e)) from None


def run(pipeline):
    "Run the stages that are not fresh."
    from doit.cmd_base import ModuleTaskLoader
    from doit.doit_cmd import DoitMain
    pipeline.load(); environment(); look_at_data(pipeline)
    quiet, start = reporter(), time.monotonic()
    if small := pipeline.at_test_size(): say(f"nbs/params/{pipeline.profile}.yaml leaves {', '.join(small)} at the size of the notebooks' own tests; `extends: hm` in it takes what real data needs", sys.stderr)
    with alone(pipeline.folder):
        loader = ModuleTaskLoader({'DOIT_CONFIG': DOIT_CONFIG | {'reporter': quiet}, 'task_stages': pipeline.tasks})
        code = DoitMain(loader, config_filenames=()).run(['run', '-n', str(jobs(os.environ.get('MAKEFLAGS', ''))), '-P', 'thread'])
    if code:
        failure_report(pipeline)
        sys.exit(code)
    n, seconds = len(pipeline.stages) - quiet.fresh, time.monotonic() - start
    print(f"{n} stage{'s' * (n != 1)} run, {quiet.fresh} fresh; {seconds // 60:.0f} min {seconds % 60:.0f} s", flush=True)
    results(pipeline)


def peers(pipeline):
    "Ask the peers, in their own environment, what the run's evaluation asked; hold their answers beside ours."
    pipeline.load(); environment()
    same = ''.join(f' {k}={os.environ[k]}' for k in ('DATA', 'PROFILE') if os.environ.get(k)); whole('TRIALS', 20); whole('LIMIT', 120)
    if not pipeline.stamp('60_evaluation').exists(): raise Mistake(f"{shown(pipeline.folder)}: no evaluation yet; `make run{same}` first")
    if (read(pipeline.key_file('60_evaluation')) or {}).get('input') != pipeline.key('60_evaluation')['input']:
        raise Mistake(f"{shown(pipeline.folder)}: what the evaluation was made of has changed since; `make run{same}` first")
    if code := subprocess.run([os.environ.get('MAKE', 'make'), '-s', '.venv-peers/.ready'], cwd=ROOT).returncode: sys.exit(code)
    from recsys_lib.core import Run
    from recsys_lib.peers import export_questions
    with alone(pipeline.folder):
        command = [ROOT / '.venv-peers/bin/python', ROOT / 'peers/ask.py', export_questions(Run(pipeline.folder))]
        for name in ('TRIALS', 'LIMIT', 'PEERS'): command += [f'--{name.lower()}', os.environ[name]] if os.environ.get(name) else []
        code = subprocess.run(command).returncode
        if code: sys.exit(code)
        pipeline.made('64_peers')
    print(f"\nin {shown(pipeline.folder / '64_peers.ipynb')}; `make run{same}` takes it into the report")


def publish(pipeline):
    "Render the reports again, copy them to where git keeps them, and let the tour show that run."
    run(pipeline)
    with alone(pipeline.folder):
        pipeline.made('90_report', publish_to=str(ROOT / 'reports'))
        keep_shown(ROOT / 'nbs/index.ipynb', run_dir=str(pipeline.folder))


BIG = 120_000  # bytes of JSON; what is bigger is seen where the notebook is executed, and not kept by git


def code_shown(path):
    "What tells whether a notebook's outputs are of its present code."
    return sha(json.dumps(code_of(path)))


def keep_shown(path, **given):
    "Execute a notebook, and keep in it what its cells show: no warnings, no progress bars, nothing big. The hash of its code goes along, to tell when that is of an older one."
    import nbformat, tempfile
    say(f'> {shown(path)}'); code = code_shown(path)  # before, for an edit meanwhile is not what was executed
    with tempfile.TemporaryDirectory() as folder:
        try: execute(path, Path(folder, path.name), given, cwd=path.parent)
        except Exception as error: message, mistake = explain(path.stem, error); say(message, sys.stderr); sys.exit(2 if mistake else 1)
        done = nbformat.read(Path(folder, path.name), as_version=4)
    notebook = nbformat.read(path, as_version=4); cells = [c for c in done.cells if 'injected-parameters' not in c.metadata.get('tags', [])]
    for mine, theirs in zip(notebook.cells, cells, strict=True):
        if mine.cell_type != 'code': continue
        mine.outputs = [o for o in theirs.outputs if o.get('name') != 'stderr' and 'application/vnd.jupyter.widget-view+json' not in o.get('data', {}) and len(json.dumps(o)) < BIG]
    notebook.metadata['shown'] = code; nbformat.write(notebook, path)
    subprocess.run([Path(sys.executable).parent / 'nbdev_clean', '--fname', path], cwd=ROOT, check=True)


def outputs(pipeline):
    "Execute notebooks as a reader would, each on data that it draws, and keep in nbs/ what they show: the one that STAGE names, or those whose code has changed since."
    import tempfile
    environment(); os.environ['WANDB_MODE'] = 'disabled'; stage = os.environ.get('STAGE', '')
    paths = {p.stem: p for p in sorted((ROOT / 'nbs').glob('[0-9]*.ipynb')) + sorted((ROOT / 'nbs/howto').glob('[!.]*.ipynb'))}
    if stage and stage not in paths: raise Mistake(f"STAGE={stage}: expected one of {', '.join(paths)}")
    stale = [p for name, p in paths.items() if (name == stage if stage else read(p)['metadata'].get('shown') != code_shown(p))]
    with tempfile.TemporaryDirectory() as scratch:
        os.environ.setdefault('LOOKBOOK_SCRATCH', scratch)
        for path in stale: keep_shown(path)
    print(f"{len(stale)} of {len(paths)} notebooks executed; `git diff --stat nbs` says what they show now")


def tune(pipeline):
    "Search the ranker's settings, and write the best into the profile."
    import yaml
    trials = whole('TRIALS', 20)
    run(pipeline)
    base = {k: v for k, v in pipeline.chosen.get('55_ranking', {}).items() if k in pipeline.declared['56_tuning']}
    with alone(pipeline.folder):
        pipeline.made('56_tuning', trials=trials, **base)
    best = read(pipeline.folder / 'records/56_tuning.json')['tables']['best'][0]
    path = ROOT / 'nbs/params' / f'{pipeline.profile}.yaml'; text = path.read_text(); own = (yaml.safe_load(text) or {}).get('55_ranking') or {}  # and not what it inherits, or SEED
    from recsys_lib.tuning import as_tried, same_settings
    if same_settings(best, as_tried({**pipeline.declared['55_ranking'], **pipeline.chosen['55_ranking']})): return print(f"{shown(path)}: nothing found that is better than what is there")
    values = ', '.join(f'{k}: {v}' for k, v in (own | best).items())
    new, n = re.subn(r'^55_ranking: *\{.*$', f'55_ranking: {{{values}}}', text, flags=re.M)
    if not n and re.search('^55_ranking:', text, re.M): raise Mistake(f"{shown(path)}: expected 55_ranking as one line `55_ranking: {{...}}` to put these settings into: {values}")
    path.write_text(new if n else f"{text.rstrip()}\n55_ranking: {{{values}}}\n"); print(f"{shown(path)}: 55_ranking: {{{values}}}; `make run` trains with it")


def bench(pipeline):
    "Time and peak memory of each stage, as its record has them."
    records = [r for r in map(read, sorted((pipeline.folder / 'records').glob('*.json'))) if r]
    if not records: raise Mistake(f"{shown(pipeline.folder)}: no records yet; `make run` writes them")
    rows = [{'stage': r['stage'], 'seconds': f"{r['seconds']:,.1f}", 'peak MiB': f"{r['peak_mb']:,.0f}"} for r in records]
    show(rows + [{'stage': 'all', 'seconds': f"{sum(r['seconds'] for r in records):,.1f}", 'peak MiB': f"{max(r['peak_mb'] for r in records):,.0f}"}])


def params(pipeline):
    "What each stage takes: type, default, what the profile sets (* where that differs), and what it is, with its unit."
    pipeline.load()
    seed = f", SEED={pipeline.seed}" if pipeline.seed else ''
    print(f"profile {pipeline.profile} (nbs/params/{pipeline.profile}.yaml{seed}); `common` there sets a parameter of every stage that has it")
    for stage in pipeline.stages:
        rows = [r for r in described(pipeline.notebook[stage]) if r['parameter'] not in PIPELINE_SETS]
        if not rows: continue
        chosen = pipeline.chosen[stage]
        print(f'\n{stage}')
        for row in rows:
            name, mark = row['parameter'], '*' if chosen.get(row['parameter'], row['default']) != row['default'] else ' '
            row |= dict(parameter=f'{mark} {name}', default=repr(row['default']), profile=repr(chosen[name]) if name in chosen else '', meaning=row.pop('meaning'))
        show(rows, left=('parameter', 'type', 'default', 'profile', 'meaning'))


def run_named(variable):
    "The folder of a run that a person names: as a path, or by its name in reports/runs."
    name = os.environ.get(variable)
    runs = ROOT / 'reports/runs'
    there = ', '.join(sorted(p.parent.name for p in runs.glob('*/records'))) or 'none'
    if not name: raise Mistake(f"{variable} is not given; expected a run's folder, or its name in reports/runs (there is: {there})")
    found = [p for p in (Path(os.path.abspath(os.path.expanduser(name))), runs / name) if p.is_dir()]
    if not found: raise Mistake(f"{variable}={name}: no such folder, and no such run in reports/runs (there is: {there})")
    if not any((found[0] / 'records').glob('*.json')): raise Mistake(f"{variable}={name}: {shown(found[0])} has no records/*.json, so it is not a run, or none of its stages has ended")
    return found[0]


class Kept:
    "What a run left on the disk about itself."
    def __init__(self, folder):
        self.folder, self.records, self.keys = folder, {}, {}
        for path in sorted((folder / 'records').glob('*.json')):
            record = read(path)
            if not isinstance(record, dict) or 'metrics' not in record: raise Mistake(f"{shown(path)}: not the record of a stage; damaged?")
            self.records[path.stem], self.keys[path.stem] = record, read(folder / f'stamps/keys/{path.stem}.json') or {}
        self.data = (read(folder / 'data/meta.json') or {}).get('fingerprint', 'unknown')
        self.version = (read(folder / 'bundle/current/manifest.json') or {}).get('code', 'unknown')
        self.packages = (read(folder / 'environment.json') or {}).get('packages', {})

    def code(self):
        "Hash by module or notebook, of all that the stages ran; several where the stages saw different ones, as after an edit in mid-run."
        seen = {}
        for key in self.keys.values():
            for name, value in key.get('code', {}).items(): seen.setdefault(name, set()).add(value)
        return {name: ' '.join(sorted(values)) for name, values in seen.items()}

    def parameters(self):
        "(stage, parameter) -> value, as the pipeline gave it; for a run without keys, as the stage noted it."
        return {(stage, name): value for stage, record in self.records.items() for name, value in (self.keys[stage].get('parameter') or record['params']).items()}

    def tested(self):
        "On which days the models were tested, if that is known."
        split = self.records.get('20_split', {}).get('metrics', {})
        return f"{split['test_periods']} x {split['horizon']} days from {split['test_from']}" if {'test_periods', 'horizon', 'test_from'} <= split.keys() else 'unknown'

    def headline(self): return {row['model']: row for row in self.records.get('60_evaluation', {}).get('tables', {}).get('headline', [])}


def differing(a, b):
    "The keys at which two dicts differ, in order of the first."
    return [key for key in {**a, **b} if a.get(key) != b.get(key)]


def paired(a, b):
    """model -> by how much B's is ahead of A's, with the 95 % interval, on the same customers: two intervals that overlap say nothing of the difference. Empty where the runs were asked
    about others, or did not keep what they said of each."""
    files = [run.folder / 'evaluation/customers.parquet' for run in (a, b)]
    if a.data != b.data or a.tested() != b.tested() or not all(f.exists() for f in files): return {}
    import pandas as pd
    from recsys_lib.metrics import paired_interval
    key = ['model', 'asof', 'user_idx']; x, y = (pd.read_parquet(f, columns=[*key, 'MAP@12']) for f in files); both = x.merge(y, on=key, validate='one_to_one')
    return {model: tuple(float(v[0]) for v in paired_interval(rows['MAP@12_y'].to_numpy(), rows[['MAP@12_x']].to_numpy(), rows.user_idx.to_numpy())) for model, rows in both.groupby('model')}


def compare(_):
    "Two runs side by side, from what they left on the disk: headline, parameters, data, code, times."
    a, b = Kept(run_named('RUN_A')), Kept(run_named('RUN_B'))
    for name, run in (('A', a), ('B', b)): print(f'{name}: {shown(run.folder)}, data {run.data}, version {run.version}, {len(run.records)} stages')
    if a.data != b.data: print('the data are not the same: a difference between the figures may be theirs')
    if a.tested() != b.tested(): print(f'the test periods are not the same: A {a.tested()}, B {b.tested()}; a difference between the figures may be theirs')
    heads = a.headline(), b.headline()
    for name, run, head in zip('AB', (a, b), heads):
        if not head: print(f'{name} has no evaluation: {shown(run.folder)}/records/60_evaluation.json is missing or without a headline')
    if all(heads):
        ahead = paired(a, b); print('\nheadline, MAP@12 with its 95 % interval' + ('; the difference is paired, by customer:' if ahead else ':'))
        def difference(model):
            if model in ahead: return '{:+.5f} ({:+.5f} to {:+.5f})'.format(*ahead[model])
            return f"{heads[1][model]['MAP@12'] - heads[0][model]['MAP@12']:+.5f}" if model in heads[0] and model in heads[1] else ''
        of = lambda row: f"{row['MAP@12']:.5f} ({row['MAP@12 low']:.5f} to {row['MAP@12 high']:.5f})" if row else ''
        show([dict(model=m, A=of(heads[0].get(m)), B=of(heads[1].get(m)), difference=difference(m)) for m in {**heads[0], **heads[1]}])
    rows = [(stage, key, a.records[stage]['metrics'].get(key), b.records[stage]['metrics'].get(key)) for stage in a.records if stage in b.records
            for key in differing(a.records[stage]['metrics'], b.records[stage]['metrics'])]
    timed = lambda key: re.search('second|_ms|ms_|megabytes_of|cpu', key)
    listed = [dict(stage=stage, figure=key, A=figure(x), B=figure(y), difference=f'{y - x:+.4g}' if numbers(x, y) else '') for stage, key, x, y in rows if not timed(key)]
    print('\nfigures of the stages that differ, times apart:' if listed else '\nfigures of the stages: the same, times apart')
    if listed: show(listed, left=('stage', 'figure'))
    p, q = a.parameters(), b.parameters(); common = [key for key in differing(p, q) if key[0] in a.records and key[0] in b.records]
    print('\nparameters that differ:' if common else '\nparameters: the same')
    if common: show([dict(stage=s, parameter=n, A=repr(p[s, n]) if (s, n) in p else '', B=repr(q[s, n]) if (s, n) in q else '') for s, n in common], left=('stage', 'parameter'))
    code, packages = differing(a.code(), b.code()), differing(a.packages, b.packages)
    print(f"\ncode that differs: {', '.join(code)}" if code else '\ncode: the same' if a.code() else '\ncode: not known, the runs kept no keys')
    print('packages that differ: ' + ', '.join(f"{n} {a.packages.get(n, 'none')} | {b.packages.get(n, 'none')}" for n in packages) if packages else 'packages: the same')
    print('\ntime, s, and peak memory, MiB:')
    times = [dict(stage=s, **{f'{what} {n}': f'{r.records[s][key]:,.1f}' if s in r.records else '' for what, key in (('time', 'seconds'), ('memory', 'peak_mb')) for n, r in (('A', a), ('B', b))})
             for s in sorted({**a.records, **b.records})]
    total = lambda r: f"{sum(x['seconds'] for x in r.records.values()):,.1f}"
    show([*times, dict(stage='all', **{'time A': total(a), 'time B': total(b), 'memory A': '', 'memory B': ''})])


def numbers(*values): return all(isinstance(v, (int, float)) and not isinstance(v, bool) for v in values)


def figure(value):
    "A figure as a table shows it."
    return '' if value is None else f'{value:.5g}' if isinstance(value, float) else f'{value:,}' if numbers(value) else str(value)


def stage_script(path, given):
    "A stage as a program: the notebook from its parameters to the stage itself, over the module that the notebook exports, so that a profiler finds the lines in recsys_lib."
    cells = json.loads(path.read_text())['cells']; source = [''.join(c['source']) for c in cells]; code = [s for s, c in zip(source, cells) if c['cell_type'] == 'code']
    module = next((m[1] for s in code if (m := re.search(r'^#\| *default_exp +(\w+)', s, re.M))), None)
    imports = [ast.unparse(n) for s in code for n in ast.parse(re.sub(r'^[%!].*$', '', s, flags=re.M)).body if isinstance(n, (ast.Import, ast.ImportFrom))]
    first = next(i for i, c in enumerate(cells) if 'parameters' in c['metadata'].get('tags', []))
    lines = ["import matplotlib; matplotlib.use('Agg')", 'display = print', *dict.fromkeys(imports)]
    if module: lines += [f'import recsys_lib.{module} as _module', "globals().update({k: v for k, v in vars(_module).items() if not k.startswith('__')})"]
    for text, cell in zip(source[first:], cells[first:]):
        if cell['cell_type'] != 'code' or re.search(r'^#\| *export', text, re.M): continue
        lines.append(text)
        if 'parameters' in cell['metadata'].get('tags', []): lines += [f'{k} = {v!r}' for k, v in given.items()]
        if re.search(r'^with stage\(', text, re.M): break
    return '\n'.join(lines) + '\n'


def trial_of(pipeline, stage, folder):
    "A copy of a run for one stage to work in: links to what the others made, copies of the folders that the stage writes into, without what it wrote."
    outputs = (read(pipeline.folder / f'records/{stage}.json') or {}).get('outputs', [])
    own = {Path(o).parts[0] for o in outputs}
    for path in pipeline.folder.iterdir():
        if path.name in ('records', 'stamps', 'wandb', 'profile') or path.suffix in ('.ipynb', '.html') or path.name.startswith('.'): continue
        if path.name not in own: (folder / path.name).symlink_to(path)
        elif path.is_dir(): shutil.copytree(path, folder / path.name, symlinks=True)
        else: shutil.copy(path, folder / path.name)
    if (pipeline.folder / 'records').is_dir(): shutil.copytree(pipeline.folder / 'records', folder / 'records')
    for output in outputs:
        path = folder / output
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink(missing_ok=True)


def profile(pipeline):
    "Time and memory of a stage by line, measured by scalene in a copy of the run: the run itself stays as it is."
    import tempfile
    pipeline.load(); environment()
    stage, before = os.environ.get('STAGE', ''), None
    if stage not in pipeline.stages: raise Mistake(f"STAGE={stage}: expected one of {', '.join(pipeline.stages)}")
    if importlib.util.find_spec('scalene') is None: raise Mistake(f"make profile needs scalene, which is not in this environment: {shown(Path(sys.executable).parent)}/pip install scalene")
    for name in pipeline.after(stage):
        if not pipeline.stamp(name).exists(): before = before or name
    if before: raise Mistake(f"{shown(pipeline.folder)}: {stage} comes after {before}, which has not run; `make run` with the same DATA and PROFILE first")
    out = pipeline.folder / 'profile'; out.mkdir(parents=True, exist_ok=True)
    script, result = out / f'{stage}.py', out / f'{stage}.json'
    for kind in ('--memory', '--cpu-only'):
        result.unlink(missing_ok=True)
        with tempfile.TemporaryDirectory(dir=out, prefix='.trial-') as folder:
            trial_of(pipeline, stage, Path(folder))
            given = pipeline.chosen[stage] | {'run_dir': folder} | ({'data_dir': str(pipeline.data)} if pipeline.data else {})
            script.write_text(stage_script(pipeline.notebook[stage], {k: v for k, v in given.items() if k in pipeline.declared[stage]}))
            code = subprocess.run([sys.executable, '-m', 'scalene', 'run', '--profile-only', 'recsys_lib', '--program-path', str(ROOT), kind, '-o', str(result), str(script)],
                                  cwd=ROOT / 'nbs', env=os.environ | {'WANDB_MODE': 'disabled'}).returncode
        if -code % 256 != signal.SIGSEGV: break
        # what stands in for malloc does not agree with every library: github.com/plasma-umass/scalene/issues/481, 556
        print(f"scalene crashed (SIGSEGV) with {kind}{': once more, without the memory' if kind == '--memory' else ''}", file=sys.stderr)
    if code or not result.exists(): raise Mistake(f"the profiler ended with code {code}{'' if result.exists() else ' and wrote nothing: the stage may be too short to be sampled'}; the program is {shown(script)}")
    by_line(read(result), memory=kind == '--memory')
    print(f"\nall lines: {shown(result)}   (to look at: {shown(Path(sys.executable).parent)}/python -m scalene view {shown(result)})")


def by_line(found, memory=True, most=15):
    "The lines that took most time, and those that took most memory."
    total = found['elapsed_time_sec']
    lines = [dict(line=f"{shown(Path(path))}:{r['lineno']}", share=r['n_cpu_percent_python'] + r['n_cpu_percent_c'] + r.get('n_sys_percent', 0), python=r['n_cpu_percent_python'],
                  memory=r['n_peak_mb'], code=linecache.getline(str(ROOT / path), r['lineno']).strip()) for path, f in found['files'].items() for r in f['lines']]
    lines = [r for r in lines if not r['code'].startswith(('import ', 'from '))]  # what a library costs is not the stage's doing
    for title, key in (('time', 'share'), *([('memory', 'memory')] if memory else [])):
        first = sorted((r for r in lines if r[key] > 0), key=lambda r: (-r[key], r['line']))[:most]
        print(f"\nlines by {title}, of {total:.1f} s with imports and the profiler's own work{f' and a peak of {peak:,.0f} MiB' if (peak := found['max_footprint_mb']) else ''}:" if first else f'\nno line of recsys_lib took {title} enough to be sampled')
        if first: show([{'line': r['line'], 'time': f"{r['share']:.1f}%", 'of it Python': f"{r['python']:.1f}%", 'peak MiB': f"{r['memory']:,.0f}", 'code': r['code'][:110]} for r in first], left=('code',))


def folder(pipeline):
    "Print the run's folder."
    print(shown(pipeline.folder))


def clean(pipeline):
    "Remove the run's folder."
    if not pipeline.folder.exists(): return print(f"{shown(pipeline.folder)} is not there")
    with alone(pipeline.folder): shutil.rmtree(pipeline.folder)
    print(f"removed {shown(pipeline.folder)}")


def check(pipeline):
    "Export and clean the notebooks, and fail if that changes anything: what is committed is what they say."
    def state():
        files = sorted([*ROOT.glob('nbs/*.ipynb'), *ROOT.glob('recsys_lib/*.py')])
        git = subprocess.run(['git', 'status', '--porcelain'], cwd=ROOT, capture_output=True, text=True).stdout
        return {shown(f): content(f) for f in files}, git
    before, _ = state()
    for tool in ('nbdev_export', 'nbdev_clean'): subprocess.run([Path(sys.executable).parent / tool], cwd=ROOT, check=True)
    after, git = state()
    changed = sorted(f for f in before.keys() | after.keys() if before.get(f) != after.get(f))
    if changed: raise Mistake(f"not exported or not clean: {', '.join(changed)} (now mended: look at the change and commit it)")
    if os.environ.get('CI') == 'true' and git: raise Mistake(f"the work tree is not clean:\n{git.rstrip()}")
    print(f"{len(after)} notebooks and modules are exported and clean")


COMMANDS = {f.__name__: f for f in (run, tune, peers, publish, outputs, bench, params, compare, profile, folder, clean, check)}

if __name__ == '__main__':
    command = COMMANDS.get(sys.argv[1] if len(sys.argv) == 2 else '')
    if not command: sys.exit('usage: dodo.py ' + '|'.join(COMMANDS))
    try: command(from_environment())
    except Mistake as mistake: print(f'error: {mistake}', file=sys.stderr); sys.exit(2)
    except BrokenPipeError: os._exit(141)  # who was reading has gone, as `head` does
    except KeyboardInterrupt: print('\ninterrupted; `make run` goes on from there', file=sys.stderr); sys.stderr.flush(); os._exit(130)
