"""The door: help is quick, names are forgiving, the user's mistakes are one line."""

import re
import subprocess
import sys

import pytest

from vlmcourse import cli
from vlmcourse.errors import UserError


def test_importing_the_door_imports_nothing_heavy():
    heavy = "{'torch', 'numpy', 'transformers', 'lightning', 'matplotlib', 'librosa', 'scipy'}"
    code = (
        "import sys, vlmcourse.cli as cli; assert cli.main(['--help']) == 0;"
        f" print('heavy:', sorted({heavy} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.rstrip().endswith("heavy: []")


def test_help_lists_every_command_with_an_example(capsys):
    assert cli.main(["--help"]) == 0
    text = capsys.readouterr().out
    for name, (_, line) in cli.COMMANDS.items():
        assert f"  {name} " in text
        assert line in text
    assert "example: vlmcourse chat" in text


def test_no_command_shows_the_help_and_fails(capsys):
    assert cli.main([]) == 2
    assert "commands:" in capsys.readouterr().out


def test_version(capsys):
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("vlmcourse 0.")


@pytest.mark.parametrize(("typed", "meant"), [("wrold", "world"), ("trian", "train")])
def test_an_unknown_command_names_the_nearest(typed, meant, capsys):
    assert cli.main([typed]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert f"Did you mean '{meant}'?" in err
    assert err.count("\n") == 1


def test_nothing_near_still_lists_the_known(capsys):
    assert cli.main(["zzzzqqq"]) == 2
    err = capsys.readouterr().err
    assert "Did you mean" not in err
    assert "foundations" in err


def command(monkeypatch, function):
    module = type(sys)("vlmcourse_made_up")
    module.main = function
    monkeypatch.setitem(sys.modules, "vlmcourse_made_up", module)
    monkeypatch.setitem(cli.COMMANDS, "made-up", ("vlmcourse_made_up:main", "made up"))


def test_arguments_and_exit_codes_pass_through(monkeypatch):
    seen = []
    command(monkeypatch, lambda argv: seen.append(argv) or 1)
    assert cli.main(["made-up", "--steps", "3"]) == 1
    assert seen == [["--steps", "3"]]


def test_a_user_error_is_one_line_without_a_traceback(monkeypatch, capsys):
    class BadClip(UserError):
        pass

    def fail(argv):
        raise BadClip("clip.mp4: no video track")

    command(monkeypatch, fail)
    assert cli.main(["made-up"]) == 2
    assert capsys.readouterr().err == "error: clip.mp4: no video track\n"


def test_other_errors_keep_their_traceback(monkeypatch):
    def fail(argv):
        raise ValueError("a bug")

    command(monkeypatch, fail)
    with pytest.raises(ValueError, match="a bug"):
        cli.main(["made-up"])


def test_the_keyboard_stops_quietly(monkeypatch, capsys):
    def stop(argv):
        raise KeyboardInterrupt

    command(monkeypatch, stop)
    assert cli.main(["made-up"]) == 130
    assert capsys.readouterr().err == "stopped\n"


@pytest.mark.parametrize("name", list(cli.COMMANDS))
def test_every_command_explains_itself_with_an_example(name, capsys):
    main = cli.find_command(name)
    with pytest.raises(SystemExit) as stop:
        main(["--help"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    assert re.search(rf"usage: .*vlmcourse[ .]{name}", text)
    assert "example" in text.lower()
