"""What spawn@.service starts: python3 -I -S -X utf8 .../spawnhelper/__main__.py UNIT

-S saves the millisecond that site costs and with it leaves out the folders of this package, prctl
and systemd-python. The first is the one that holds this file's folder, and nothing else is in it;
it goes first, for most of what is loaded is there.
"""

import gc
import sys
from posix import _exit

# A connection makes no garbage that a search would find, and the searches cost half a millisecond,
# a third of it while modules are loaded.
gc.disable()
sys.path.insert(0, __file__.rpartition("/spawnhelper/")[0])

from spawnhelper import LIBRARIES  # noqa: E402

sys.path += LIBRARIES

from spawnhelper.doors.one import main  # noqa: E402

# Nothing is left to be written or closed. To take the interpreter down in order would cost a third
# of what its start does.
_exit(main(sys.argv[1:]))
