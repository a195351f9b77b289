import subprocess
import sys
from pathlib import Path

import pytest
from test_training_resume import assert_same, outcome

from support import killed_training


@pytest.fixture(scope="module")
def ended(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ended")
    command = [sys.executable, "-m", killed_training.__name__, folder]
    run = subprocess.run(
        command, cwd=Path(__file__).parents[1], capture_output=True, text=True, timeout=200, check=False
    )
    assert run.returncode == 0, run.stderr[-3000:]
    return folder, run.stdout


def test_killed_trainings_end_as_undisturbed_ones(ended):
    killed, undisturbed = (outcome(ended[0] / name) for name in ("killed", "undisturbed"))
    assert len(killed["steps.csv"]) == killed_training.STEPS
    assert_same(killed, undisturbed)


def test_a_full_disk_is_one_sentence_and_the_last_checkpoint_stays(ended):
    folder, output = ended
    last = folder / "killed" / "last.pt"
    assert output == f"{last}: could not be written (File too large); what was saved before is kept\n"
    assert not list(Path(last.parent).glob(".*"))
