"What several tests share: a tiny twin, drawn once."
import os
os.environ['WANDB_MODE'] = 'disabled'
os.environ.setdefault('OPENBLAS_NUM_THREADS', '1')

import shutil

import pytest

from recsys_lib.twin import draw_twin


@pytest.fixture(scope='session')
def twin(tmp_path_factory):
    "A folder with the tiny twin in the Kaggle layout. Do not write into it: `copy_of` makes one that may be changed."
    folder = tmp_path_factory.mktemp('twin') / 'raw'
    draw_twin(folder, 'tiny', n_images=0)
    return folder


@pytest.fixture
def copy_of(tmp_path):
    "Copies a raw folder to a place that the test may change."
    def copy(folder):
        target = tmp_path / 'raw'
        shutil.rmtree(target, ignore_errors=True)
        return shutil.copytree(folder, target)
    return copy
