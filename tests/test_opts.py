import dataclasses
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from resnet_zclass.command import command
from resnet_zclass.errors import InputError
from resnet_zclass.opts import (
    COMMANDS,
    TrainOptions,
    load_options,
    make_options,
    parse_options,
    preset_names,
    save_options,
)


def test_flags_win_over_the_file_and_the_file_over_the_defaults(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text("epochs = 7\nbatch_size = 9\n")
    options = parse_options("train", ["--epochs", "3", "--opts", str(path)])
    assert (options.epochs, options.batch_size, options.patience) == (3, 9, TrainOptions().patience)


def test_a_bare_opts_means_the_default_preset():
    assert parse_options("simulate", ["--opts"]) == load_options("simulate", "demo")
    assert parse_options("simulate", ["--opts", "--planes", "5"]).planes == 5


def test_names_take_underscores_and_dashes_and_the_originals_aliases():
    options = parse_options("train", ["--batch-size", "8", "--save_checkpoint_path", "a", "--weights_path", "w.h5"])
    assert (options.batch_size, options.save_logs_path, options.weights) == (8, "a", "w.h5")
    assert parse_options("evaluate", ["--load_checkpoint_path", "run"]).load_logs_path == "run"


def test_a_file_with_tables_gives_its_top_to_train_and_each_table_to_its_command(tmp_path):
    path = tmp_path / "job.toml"
    path.write_text("epochs = 7\n[make_dataset]\nplanes = 5\n")
    assert load_options("train", path).epochs == 7
    assert load_options("make_dataset", path).planes == 5
    assert load_options("evaluate", path) == COMMANDS["evaluate"]()


@pytest.mark.parametrize(
    "name", sorted(set(COMMANDS) - {"predict", "report", "serve", "completion"})
)  # whose inputs are never in a file
def test_options_come_back_from_their_file(name, tmp_path):
    options = COMMANDS[name]()
    changed = {}
    for field in dataclasses.fields(options):
        value = getattr(options, field.name)
        if isinstance(value, bool):
            changed[field.name] = not value
        elif isinstance(value, int | float):
            changed[field.name] = type(value)(value + 2)
    options = dataclasses.replace(options, **changed)
    save_options(tmp_path / "opts.toml", options)
    assert load_options(name, tmp_path / "opts.toml") == options


def test_every_preset_is_read_by_every_command_it_speaks_of():
    for preset in preset_names():
        assert isinstance(load_options("train", preset), TrainOptions)
        for name in COMMANDS:
            load_options(name, preset)


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["--batch_sise", "8"], "--batch_sise"),
        (["--batch_size", "many"], "--batch_size"),
        (["--scaling", "both"], "--scaling"),
        (["--opts", "no_such_preset"], "no_such_preset"),
        (["stray"], "stray"),
    ],
)
def test_bad_usage_is_one_line_that_names_the_option(words, named, capsys):
    code = command("train")(lambda options: None)(words)
    err = capsys.readouterr().err
    assert code == 2
    assert err.startswith("error: ")
    assert named in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ("epoch = 3\n", "'epoch'; is epochs meant"),
        ("help = true\n", "help"),
        ("epochs = 'x'\n", "--epochs"),
        ("epochs = \n", "TOML"),
        ("[trian]\n", "trian"),
    ],
)
def test_a_bad_options_file_is_named_with_what_is_wrong(content, named, tmp_path):
    path = tmp_path / "bad.toml"
    path.write_text(content)
    with pytest.raises(InputError) as caught:
        load_options("train", path)
    assert str(path) in str(caught.value)
    assert named in str(caught.value)


def test_exit_codes_tell_done_from_bad_input_from_interrupted(capsys):
    def run(error):
        def body(options):
            if error:
                raise error

        return command("train")(body)([])

    assert run(None) == 0
    assert run(InputError("two\nlines")) == 2
    assert capsys.readouterr().err == "error: two lines\n"
    assert run(KeyboardInterrupt()) == 130
    assert run(FileNotFoundError(2, "No such file", "there.tif")) == 2
    assert "there.tif" in capsys.readouterr().err


def test_debug_shows_the_traceback(capsys):
    def body(options):
        raise InputError("bad")

    assert command("train")(body)(["--debug"]) == 2
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize("name", COMMANDS)
def test_help_lists_every_option_without_loading_tensorflow(name):
    code = (
        f"import sys; from resnet_zclass.{name} import main\n"
        "try: main(['--help'])\nexcept SystemExit: pass\n"
        "print('LOADED', [m for m in ('tensorflow.python', 'keras.src', 'pandas.core') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.rstrip().endswith("LOADED []"), done.stdout[-500:] + done.stderr
    for field in dataclasses.fields(COMMANDS[name]):
        assert field.name in done.stdout or field.name == "inputs"


def test_importing_the_package_loads_no_tensorflow():
    code = "import sys, resnet_zclass; print('tensorflow' in sys.modules or 'keras' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "False", done.stderr


def complete(words: list[str], script: Path) -> list[str]:
    """What bash offers after some words."""
    line = " ".join(shlex.quote(word) for word in words)
    code = (
        f"source {shlex.quote(str(script))}; COMP_WORDS=({line}); COMP_CWORD={len(words) - 1}; "
        f"COMP_LINE={shlex.quote(' '.join(words))}; "
        "$(complete -p resnet-zclass | sed 's/.*-F \\([^ ]*\\).*/\\1/'); echo ${COMPREPLY[@]}"
    )
    return subprocess.run(["bash", "-c", code], capture_output=True, text=True, timeout=60).stdout.split()


def test_bash_completes_commands_options_and_values(tmp_path, capsys):
    from resnet_zclass.completion import main

    assert main(["bash"]) == 0
    script = tmp_path / "completion.bash"
    script.write_text(capsys.readouterr().out)
    assert set(COMMANDS) <= set(complete(["resnet-zclass", ""], script))
    assert complete(["resnet-zclass", "tra"], script) == ["train"]
    assert "--learning_rate" in complete(["resnet-zclass", "train", "--lea"], script)
    assert complete(["resnet-zclass", "train", "--schedule", "c"], script) == ["cyclic", "cosine"]


@pytest.mark.parametrize(
    ("name", "options", "named"),
    [
        ("train", {"epochs": 2.5}, "--epochs"),
        ("train", {"batch_size": True}, "--batch_size"),
        ("train", {"fractions": 0.7}, "--fractions"),
        ("train", {"data_path": None}, "data_path"),
        ("report", {"overwrite": "no"}, "overwrite"),
        ("report", {"runs": 5}, "runs"),
        ("export", {"format": "onx"}, "--format"),
        ("completion", {"shell": None}, "shell"),
        (None, {}, "'None'"),
    ],
)
def test_keywords_are_checked_as_flags_are(name, options, named):
    with pytest.raises(InputError, match=named):
        make_options(name, **options)


def test_keywords_mean_what_flags_mean(tmp_path):
    words = ["--hidden", "3", "--flip", "--data_path", str(tmp_path), "--im_size", "32"]
    made = make_options("train", hidden=3, flip=True, data_path=tmp_path, im_size=32)
    assert made == parse_options("train", words)
    assert make_options("train", channels="_a").channels == ("_a",)
    assert make_options("report", runs=tmp_path).runs == (str(tmp_path),)
    assert make_options("train", "bead", epochs=3, im_size=None).im_size is None


def test_errors_are_one_plain_sentence_on_terminals_without_boxes():
    words = [sys.executable, "-m", "resnet_zclass.train", "--epochs", "x"]
    done = subprocess.run(words, capture_output=True, text=True, env=os.environ | {"PYTHONIOENCODING": "ascii"})
    assert done.returncode == 2
    assert done.stderr == "error: Error parsing --epochs: invalid literal for int() with base 10: 'x'\n"
