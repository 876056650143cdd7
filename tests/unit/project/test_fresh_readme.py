from pathlib import Path

import pytest
from tests.fresh.readme import PYTHON, Command, read_commands, read_dice, read_packages

README_FILE = Path(__file__).parents[3] / "README.md"
README = """# Tool

On Debian: `apt-get install -y git make python3`, in a clone; later perhaps `apt-get install gcc`.

## Two commands

```
make demo     # draws
# a remark
make test
```

### More of it

```python
import this
print(this)
```

## Five minutes

```json
{"no": "command"}
```
```
. .venv/bin/activate
wordmask segment a.nii.gz "liver, spleen" \\
    -o b.nii.gz
```

## Results

Mean Dice 0.876 over 70 pairs. There is nothing to type here.
"""


def test_commands_of_a_section_are_read_in_their_order_and_word_for_word():
    assert read_commands(README, "Two commands") == [
        Command("make demo     # draws"),
        Command("make test"),
        Command("import this\nprint(this)\n", PYTHON),
    ]


def test_command_over_several_lines_is_one_and_other_languages_are_not_typed():
    activation, segment = read_commands(README, "Five minutes")
    assert activation.changes_the_shell
    assert not segment.changes_the_shell
    assert segment.text.split() == ["wordmask", "segment", "a.nii.gz", '"liver,', 'spleen"', "-o", "b.nii.gz"]


@pytest.mark.parametrize("section", ["Results", "Six minutes"])
def test_section_without_a_command_is_an_error(section):
    with pytest.raises(ValueError, match=section):
        read_commands(README, section)


def test_packages_are_those_of_the_first_line_that_installs_some():
    assert read_packages(README) == ["git", "make", "python3"]


@pytest.mark.parametrize(
    "text", [README, "Mean Dice over 70 (case, word) pairs: 0.876\nMean Dice over words: ours 0.862"]
)
def test_dice_is_read_as_promised_and_as_printed(text):
    assert read_dice(text) == 0.876


def test_demo_that_prints_no_dice_is_an_error():
    with pytest.raises(ValueError, match="no mean Dice"):
        read_dice("Traceback")


@pytest.mark.parametrize(
    ("text", "placeholder"),
    [
        ("wordmask serve --studies FOLDER", True),
        ("curl -s http://127.0.0.1:8000/wordmask/jobs/ID          # state", True),
        ('curl -s "http://127.0.0.1:8000/wordmask/jobs/ID/result?output=image" -o labels.nii.gz', True),
        ("curl -s -X POST http://127.0.0.1:8000/jobs  # answers an ID", False),
        ("make demo CPU=1", False),
    ],
)
def test_command_with_a_word_to_replace_is_known(text, placeholder):
    assert Command(text).has_a_placeholder is placeholder


def test_readme_of_this_repository_has_what_the_bare_machine_types():
    readme = README_FILE.read_text(encoding="utf-8")
    commands = [*read_commands(readme, "Two commands"), *read_commands(readme, "Five minutes")]
    assert any(command.text.startswith("make demo") for command in commands)
    assert any(command.is_a_server for command in commands)
    assert {"git", "make", "python3", "python3-venv"} <= set(read_packages(readme))
    assert read_dice(readme) > 0
