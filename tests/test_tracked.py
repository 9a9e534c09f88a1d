"""What git keeps came from the twin: a tracked file under reports/ is one that `make reports` published of the reference run, to the byte; what runs at other scales cost is of twins too, for how much somebody's customers buy is nobody's business. The small outputs that notebooks in nbs/ carry are of their scratch runs:
none of these notebooks was executed by the pipeline, and none names a folder of data or of another run."""
import hashlib, json, re, shutil, subprocess
from pathlib import Path

import pytest

from .test_desk import module

ROOT = Path(__file__).parents[1]
BIG = module().BIG  # bytes
COSTS = {'profile', 'data', 'articles', 'customers', 'purchases', 'seconds', 'run_seconds', 'peak_mb', 'disk_mb', 'executed', 'code', 'machine', 'fingerprint'}


def tracked(root, *under): return subprocess.run(['git', '-C', root, 'ls-files', '-z', '--', *under], capture_output=True, text=True, check=True).stdout.split('\0')[:-1]


def foreign(root, files):
    "Reasons why files do not belong into the repository; none if all is well."
    published, reasons = json.loads((root / 'reports/published.json').read_text()), []
    metrics = json.loads((root / 'reports/metrics.json').read_text())
    if metrics['run'] != 'demo-twin' or '05_twin' not in metrics['stages']: reasons.append(f"reports/metrics.json is of the run {metrics['run']}, not of the twin")
    for name in ('run', 'fingerprint'):
        if published[name] != metrics[name]: reasons.append(f'reports/published.json and metrics.json are of different runs: {name} {published[name]} and {metrics[name]}')
    for row in json.loads((root / 'reports/costs.json').read_text()) if (root / 'reports/costs.json').exists() else []:
        if row['data'] != 'twin' or set(row) != COSTS: reasons.append(f"reports/costs.json has a row of other data than the twin, or with more than costs: {row['profile']}")
    for name in files:
        path, short = root / name, name.removeprefix('reports/')
        if name.endswith('.ipynb'):
            notebook = json.loads(path.read_text()); said = json.dumps([c.get('outputs') for c in notebook['cells']])
            if 'papermill' in notebook.get('metadata', {}) or any('injected-parameters' in c.get('metadata', {}).get('tags', []) for c in notebook['cells']): reasons.append(f'{name} was executed by the pipeline')
            if (weight := max([len(json.dumps(o)) for c in notebook['cells'] for o in c.get('outputs') or [0]])) > BIG: reasons.append(f'{name} carries an output of {weight:,} bytes')
            if found := re.search(r'reports/runs/(?!demo-twin|tiny-twin)|/shared/data|hm-week|hm-sample', said): reasons.append(f'{name} carries outputs of other data: {found[0]}')
        elif short == name or short == 'published.json': continue
        elif short not in published['files']: reasons.append(f'{name} was not published from the reference run')
        elif hashlib.sha256(path.read_bytes()).hexdigest() != published['files'][short]: reasons.append(f'{name} is not what was published from the reference run')
        elif path.suffix == '.md' and published['fingerprint'][:12] not in path.read_text(): reasons.append(f'{name} does not name the fingerprint of its data')
    return reasons


def test_tracked_outputs_are_of_the_twin():
    if not (ROOT / '.git').exists(): pytest.skip('not a git checkout')
    assert foreign(ROOT, tracked(ROOT, 'reports', 'nbs')) == []
    heavy = [name for name in tracked(ROOT, 'reports') if (ROOT / name).stat().st_size > 2 ** 20]; assert heavy == []


def test_the_readme_quotes_what_was_published():
    from recsys_lib.report import costs_text, headline_block, peers_text, refreshed
    text, metrics = (ROOT / 'README.md').read_text(), json.loads((ROOT / 'reports/metrics.json').read_text())
    assert refreshed(text, 'headline', f"\n{headline_block(metrics['stages'])}\n") == text
    assert refreshed(text, 'peers', f"\n{peers_text(metrics['stages'].get('64_peers', {'tables': {}})['tables'])}\n") == text
    if (costs := ROOT / 'reports/costs.json').exists(): assert refreshed(text, 'costs', f'\n{costs_text(json.loads(costs.read_text()))}\n') == text


@pytest.mark.parametrize('fault', ['another run', 'another file', 'altered', 'executed', 'outputs', 'costs', 'more than costs'])
def test_outputs_of_other_data_are_rejected(tmp_path, fault):
    shutil.copytree(ROOT / 'reports', tmp_path / 'reports', ignore=shutil.ignore_patterns('runs')); (tmp_path / 'nbs').mkdir()
    files = [f'reports/{p.name}' for p in (tmp_path / 'reports').iterdir()]; assert foreign(tmp_path, files) == []
    metrics = json.loads((tmp_path / 'reports/metrics.json').read_text())
    if fault == 'another run': del metrics['stages']['05_twin']; (tmp_path / 'reports/metrics.json').write_text(json.dumps(metrics | {'run': 'hm-week', 'fingerprint': 'f' * 16}))
    if fault == 'another file': (tmp_path / 'reports/shop_week.jpg').write_bytes(b'x'); files.append('reports/shop_week.jpg')
    if fault == 'altered': (tmp_path / 'reports/README.md').write_text('# of a week of real purchases')
    if 'costs' in fault:
        row = dict.fromkeys(COSTS, 1) | dict(profile='demo', data='twin' if fault == 'more than costs' else 'hm-week-1a2b3c') | ({'MAP@12': .03} if fault == 'more than costs' else {})
        (tmp_path / 'reports/costs.json').write_text(json.dumps([row])); published = json.loads((tmp_path / 'reports/published.json').read_text())
        published['files']['costs.json'] = hashlib.sha256((tmp_path / 'reports/costs.json').read_bytes()).hexdigest(); (tmp_path / 'reports/published.json').write_text(json.dumps(published)); files.append('reports/costs.json')
    if fault in ('executed', 'outputs'):
        cells = [{'cell_type': 'code', 'outputs': [{'text': 'reports/runs/hm-shop-1a2b3c/index.html' if fault == 'outputs' else '1'}]}]
        (tmp_path / 'nbs/10_data.ipynb').write_text(json.dumps({'cells': cells, 'metadata': {'papermill': {}} if fault == 'executed' else {}})); files.append('nbs/10_data.ipynb')
    assert foreign(tmp_path, files)
