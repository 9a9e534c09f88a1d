"""What `make lab` adds to your own Jupyter settings: the extension beside this file."""
import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parent))
c.ServerApp.jpserver_extensions = {'export_on_save': True}  # noqa: F821  Jupyter hands `c` in
